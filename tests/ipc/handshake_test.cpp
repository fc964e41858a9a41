// White box: the handshake's state machine, without sockets.
#include "handshake.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <stdexcept>

#include "connection_support.hpp"

using namespace sidestep;
using State = Handshake::State;
using Side = Handshake::Side;

namespace {

void feed(Handshake& handshake, std::string_view bytes) {
    while (!bytes.empty() && !handshake.over()) {
        std::span<std::byte> room = handshake.wanted();
        std::size_t size = std::min(room.size(), bytes.size());
        std::memcpy(room.data(), bytes.data(), size);
        handshake.received(size);
        bytes.remove_prefix(size);
    }
}

void converse(Handshake& a, Handshake& b) {
    for (int i = 0; i < 8; ++i) {
        feed(b, a.take_output());
        feed(a, b.take_output());
    }
}

std::string body(const std::string& one_frame) { return one_frame.substr(4); }

}  // namespace

TEST_CASE("two sides with the same key authenticate each other, with every pair of hashes",
          "[ipc][handshake]") {
    for (MacHash a : {MacHash::sha256, MacHash::sha384, MacHash::sha3_256, MacHash::sha3_384})
        for (MacHash b : {MacHash::sha256, MacHash::sha384, MacHash::sha3_256, MacHash::sha3_384}) {
            for (const char* key : {"secret", ""}) {
                Credentials one = {key, a, false}, two = {key, b, false};
                Handshake listener(Side::listener, one), client(Side::client, two);
                converse(listener, client);
                CHECK(listener.state() == State::authenticated);
                CHECK(client.state() == State::authenticated);
            }
        }
}

TEST_CASE("different keys fail on both sides, whoever asks first", "[ipc][handshake]") {
    Credentials one = {"secret"}, two = {"wrong"};
    Handshake listener(Side::listener, one), client(Side::client, two);
    converse(listener, client);
    CHECK(listener.state() == State::failed);
    CHECK(listener.reason().find("authkey") != std::string::npos);
    CHECK(client.state() == State::failed);
    CHECK(client.reason().find("rejected") != std::string::npos);
}

TEST_CASE("challenges are as Python 3.12 writes them, and never the same twice",
          "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake first(Side::listener, credentials), second(Side::listener, credentials);
    std::string challenge = first.take_output();
    CHECK(challenge.size() == 4 + 11 + 8 + 40);
    CHECK(challenge.substr(0, 4) == test::big_endian(59, 4));
    CHECK(challenge.substr(4, 19) == "#CHALLENGE#{sha256}");
    CHECK(challenge != second.take_output());
}

TEST_CASE("answers are HMACs over the whole challenge, in the challenger's hash or one's own",
          "[ipc][handshake][py:ChallengeResponseTest.test_challengeresponse]") {
    Credentials modern = {"supadupasecretkey"};
    Credentials legacy = {"supadupasecretkey", MacHash::sha256, true};
    for (std::string prefix : {"", "{md5}", "{sha256}", "{sha384}", "{sha3_256}", "{sha3_384}"}) {
        std::string message = prefix + "is-twenty-bytes-long";
        std::string response = create_response(legacy, message);
        CHECK(response.starts_with(prefix));
        CHECK(verify_response(legacy, message, response).empty());
        CHECK_FALSE(verify_response({"another", MacHash::sha256, true}, message, response).empty());
        bool is_md5 = prefix.empty() || prefix == "{md5}";
        CHECK(verify_response(modern, message, response).empty() != is_md5);
        if (is_md5)
            CHECK_THROWS_AS(create_response(modern, message), std::invalid_argument);
        else
            CHECK(create_response(modern, message) == response);
        response.back() = static_cast<char>(response.back() ^ 1);
        CHECK_FALSE(verify_response(legacy, message, response).empty());
        response.pop_back();
        CHECK_FALSE(verify_response(legacy, message, response).empty());
    }
    // An HMAC-SHA256 of RFC 4231 (case 2), so that both sides are not wrong in the same way.
    std::string known = hmac(MacHash::sha256, "Jefe", "what do ya want for nothing?");
    CHECK(known.substr(0, 4) == std::string("\x5b\xdc\xc1\x46"));
    CHECK(known.substr(28) == std::string("\x64\xec\x38\x43"));
}

TEST_CASE("an unknown hash, an unterminated name, a short challenge are refused",
          "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    for (std::string challenge : {"{sha1}is-twenty-bytes-long-or-more", "{}is-twenty-bytes-long-xx",
                                  "{sha256is-twenty-bytes-long-xxx", "no name and longer than 20",
                                  "{SHA256}is-twenty-bytes-long", "short", ""}) {
        CAPTURE(challenge);
        CHECK_THROWS_AS(create_response(credentials, challenge), std::invalid_argument);
    }
    CHECK_FALSE(verify_response(credentials, "{sha256}x", "").empty());
    CHECK_FALSE(verify_response(credentials, "{sha256}x", "{sha256}").empty());
}

TEST_CASE("every message of garbage fails the handshake where it comes", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    const std::string garbage[] = {test::frame(""),
                                   test::frame("#WELCOME#"),
                                   test::frame("#CHALLENGE#"),
                                   test::frame("hello world"),
                                   test::frame(std::string(256, 'x')),
                                   "GET / HTTP/1.1\r\n\r\n",
                                   test::big_endian(257, 4),
                                   test::big_endian(0xffffffff, 4)};
    for (const std::string& bytes : garbage) {
        CAPTURE(bytes);
        Handshake listener(Side::listener, credentials);
        feed(listener, bytes);
        CHECK(listener.state() == State::failed);
        Handshake client(Side::client, credentials);
        feed(client, bytes);
        CHECK(client.state() == State::failed);
    }
    // A client that was answered rightly, and then gets garbage for a verdict.
    Handshake listener(Side::listener, credentials), client(Side::client, credentials);
    feed(client, listener.take_output());
    (void)client.take_output();
    feed(client, test::frame("#WELCOME# "));
    CHECK(client.state() == State::failed);
}

TEST_CASE("a peer that sends our own challenge back proves nothing", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake listener(Side::listener, credentials);
    std::string challenge = body(listener.take_output());
    feed(listener, test::frame(challenge));
    CHECK(listener.state() == State::failed);
    CHECK(body(listener.take_output()) == "#FAILURE#");
}

TEST_CASE("the handshake never asks for a byte behind its frame", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake client(Side::client, credentials);
    CHECK(client.wanted().size() == 4);
    feed(client, test::big_endian(20, 4));
    CHECK(client.wanted().size() == 20);
    feed(client, "1234567");
    CHECK(client.wanted().size() == 13);
}

// White box: the handshake's state machine, without sockets.
#include "connection/handshake.hpp"

#include <openssl/evp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "connection/credentials.hpp"
#include "connection_support.hpp"

namespace handshake_test {

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

// A Python peer: it answers whatever it is asked, whoever asks, and says nothing of itself.
std::string pythons_answer(const Credentials& credentials, const std::string& challenge) {
    REQUIRE(challenge.starts_with("#CHALLENGE#"));
    return create_response(credentials, std::string_view(challenge).substr(11));
}
std::string pythons_challenge() { return "#CHALLENGE#{sha256}" + std::string(40, 'r'); }

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
    // Python takes what follows the 40 bytes as more of them.
    CHECK(challenge.size() == 4 + 11 + 8 + 40 + 20);
    CHECK(challenge.substr(0, 4) == test::big_endian(79, 4));
    CHECK(challenge.substr(4, 19) == "#CHALLENGE#{sha256}");
    CHECK(challenge.ends_with(" sidestep-listener-1"));
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

TEST_CASE("two of us need three messages, and each proof has its side and both challenges in it",
          "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake listener(Side::listener, credentials), client(Side::client, credentials);
    feed(client, listener.take_output());
    std::string answer = client.take_output();
    CHECK(body(answer).starts_with("#ANSWER#{sha256}"));
    feed(listener, answer);
    CHECK(listener.state() == State::authenticated);
    std::string proof = listener.take_output();
    CHECK(body(proof).starts_with("#WELCOME#{sha256}"));

    // The client's own proof is not the listener's.
    std::string mac = answer.substr(answer.size() - 32);
    Handshake fooled = client;
    feed(fooled, test::frame("#WELCOME#{sha256}" + mac));
    CHECK(fooled.state() == State::failed);
    CHECK(fooled.reason().find("does not know the authkey") != std::string::npos);
    // Nor is that of another conversation.
    Handshake other(Side::client, credentials), same(Side::listener, credentials);
    feed(other, same.take_output());
    feed(other, proof);
    CHECK(other.state() == State::failed);
    // Nor a welcome without one.
    Handshake trusting = client;
    feed(trusting, test::frame("#WELCOME#"));
    CHECK(trusting.state() == State::failed);

    feed(client, proof);
    CHECK(client.state() == State::authenticated);
}

TEST_CASE("whoever knows no key cannot have one client answer for another", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake first(Side::client, credentials), second(Side::client, credentials);
    SECTION("as a listener of Python's") {
        // It asks anything and welcomes every answer; then the first client asks.
        feed(first, test::frame(pythons_challenge()));
        (void)first.take_output();
        feed(first, test::frame("#WELCOME#"));
        std::string asked = body(first.take_output());
        REQUIRE(asked.starts_with("#CHALLENGE#"));
        feed(second, test::frame(asked));
        CHECK(second.state() == State::failed);
        CHECK(second.reason().find("in our own role") != std::string::npos);
        CHECK(second.take_output().empty());
    }
    SECTION("as one of ours") {
        std::string mark = " sidestep-listener-1";
        feed(first, test::frame(pythons_challenge() + mark));
        std::string answer = body(first.take_output());  // it has the first client's challenge
        std::string challenge = answer.substr(8, 8 + 40);
        for (std::string asked : {challenge, challenge + mark}) {
            Handshake oracle(Side::client, credentials);
            feed(oracle, test::frame("#CHALLENGE#" + asked));
            std::string said = body(oracle.take_output());
            for (std::string end : {said.substr(8), said.substr(said.size() - 32)}) {
                Handshake asker = first;
                feed(asker, test::frame("#WELCOME#{sha256}" + end));
                CHECK(asker.state() == State::failed);
            }
        }
    }
}

TEST_CASE("a listener does not answer what a listener has asked", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake first(Side::listener, credentials), second(Side::listener, credentials);
    std::string asked = body(first.take_output());
    std::string answer = pythons_answer(credentials, body(second.take_output()));
    feed(second, test::frame(answer));
    CHECK(second.state() == State::awaiting_challenge);
    (void)second.take_output();
    feed(second, test::frame(asked));
    CHECK(second.state() == State::failed);
    CHECK(second.take_output().empty());
}

TEST_CASE("a better handshake cannot be talked away", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    std::string mark = " sidestep-listener-1";
    Handshake listener(Side::listener, credentials), client(Side::client, credentials);
    std::string asked = body(listener.take_output());
    feed(client, test::frame(asked.substr(0, asked.size() - mark.size())));
    std::string answer = client.take_output();
    feed(listener, answer);  // over a challenge that was never made
    CHECK(listener.state() == State::failed);

    // Somebody who could get the right answer would still meet a client that is one of ours.
    Handshake wary(Side::listener, credentials), made_simple(Side::client, credentials);
    feed(wary, test::frame(pythons_answer(credentials, body(wary.take_output()))));
    feed(made_simple, test::frame(pythons_challenge()));
    (void)made_simple.take_output();
    feed(made_simple, test::frame("#WELCOME#"));
    feed(wary, made_simple.take_output());
    CHECK(wary.state() == State::failed);
    CHECK(wary.reason().find("somebody between") != std::string::npos);
}

TEST_CASE("a Python peer is answered as before, on either side", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake listener(Side::listener, credentials);
    feed(listener, test::frame(pythons_answer(credentials, body(listener.take_output()))));
    CHECK(body(listener.take_output()) == "#WELCOME#");
    feed(listener, test::frame(pythons_challenge()));
    CHECK(body(listener.take_output()) == pythons_answer(credentials, pythons_challenge()));
    feed(listener, test::frame("#WELCOME#"));
    CHECK(listener.state() == State::authenticated);

    Handshake client(Side::client, credentials);
    feed(client, test::frame(pythons_challenge()));
    CHECK(body(client.take_output()) == pythons_answer(credentials, pythons_challenge()));
    feed(client, test::frame("#WELCOME#"));
    feed(client, test::frame(pythons_answer(credentials, body(client.take_output()))));
    CHECK(body(client.take_output()) == "#WELCOME#");
    CHECK(client.state() == State::authenticated);
}

TEST_CASE("answers of the bound handshake that are cut, or name MD5, are refused",
          "[ipc][handshake]") {
    Credentials credentials = {"secret", MacHash::sha256, true};
    for (std::string answer : {"", "{sha256}", "{md5}", "{sha1}", "no name"})
        for (std::size_t more : {0U, 16U, 39U, 40U, 72U, 200U}) {
            Handshake listener(Side::listener, credentials);
            (void)listener.take_output();
            feed(listener, test::frame("#ANSWER#" + answer + std::string(more, 'x')));
            CHECK(listener.state() == State::failed);
            CHECK(body(listener.take_output()) == "#FAILURE#");
        }
}

TEST_CASE("trouble of our own is not blamed on the peer", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    Handshake handshake(Side::listener, credentials);
    CHECK_THROWS_AS(advance(-1, handshake), std::system_error);  // EBADF
    CHECK_FALSE(handshake.over());
    // What is the peer's, is.
    int fds[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    DupFd ours(fds[0]);
    ::close(fds[1]);
    Handshake broken(Side::listener, credentials);
    CHECK_FALSE(advance(ours.fd(), broken));
    CHECK(broken.reason().find("broke off") != std::string::npos);
}

TEST_CASE("a listener whose last word does not go out lets nobody in", "[ipc][handshake]") {
    Credentials credentials = {"secret"};
    int fds[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    DupFd ours(fds[0]), theirs(fds[1]);
    Handshake listener(Side::listener, credentials), client(Side::client, credentials);
    CHECK(advance(ours.fd(), listener));  // the challenge
    CHECK(advance(theirs.fd(), client));  // the answer
    REQUIRE(::shutdown(ours.fd(), SHUT_WR) == 0);
    CHECK_FALSE(advance(ours.fd(), listener));
    CHECK(listener.state() == State::failed);
    CHECK(listener.reason().find("broke off") != std::string::npos);
}

TEST_CASE("a hash that OpenSSL does not have is named with its reason", "[ipc][handshake]") {
    test::ForkedChild child([] {
        if (EVP_set_default_properties(nullptr, "provider=none-such") != 1) return 2;
        try {
            (void)hmac(MacHash::sha3_384, "key", "message");
            return 3;
        } catch (const std::invalid_argument& error) {
            std::string text = error.what();
            bool is_told =
                text.find("HMAC-sha3_384") != text.npos && text.find("unsupported") != text.npos;
            return is_told ? 0 : 4;
        }
    });
    CHECK(child.join() == 0);
}

}  // namespace handshake_test

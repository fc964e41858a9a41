#include "connection/handshake.hpp"

#include <fmt/format.h>

#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::string_view kChallenge = "#CHALLENGE#";
constexpr std::string_view kWelcome = "#WELCOME#";
constexpr std::string_view kFailure = "#FAILURE#";
constexpr std::string_view kAnswer = "#ANSWER#";
constexpr std::string_view kListenersMark = " sidestep-listener-1";
constexpr std::string_view kClientsMark = " sidestep-client-1";
constexpr std::size_t kRandomBytes = 40;
constexpr std::size_t kLegacyChallenge = 20;
constexpr std::size_t kLegacyAnswer = 16;
constexpr std::size_t kLongestDigest = 8;

constexpr const char* kLegacyHint =
    "speaks the HMAC-MD5 handshake of Python before 3.12; set the option legacy_md5 to allow it";

// A challenge or an answer: the hash that it names, and what follows. As Python has it, messages
// of the two lengths of old name none, whatever they look like.
struct Named {
    std::optional<MacHash> hash;  // none: the handshake of old
    std::string_view payload;
};
std::optional<Named> parse_named(std::string_view message) {
    if (message.size() == kLegacyChallenge || message.size() == kLegacyAnswer)
        return Named{{}, message};
    if (!message.starts_with('{')) return {};
    std::size_t end = message.substr(0, kLongestDigest + 2).find('}');
    if (end == message.npos) return {};
    std::optional<MacHash> hash = find_mac_hash(message.substr(1, end - 1));
    if (!hash) return {};
    return Named{hash, message.substr(end + 1)};
}

std::string random_bytes() {
    std::string bytes(kRandomBytes, '\0');
    sys::fill_random(std::as_writable_bytes(std::span(bytes)));
    return bytes;
}

std::string name_in_front(MacHash hash) { return fmt::format("{{{}}}", mac_hash_name(hash)); }

bool allowed(const Credentials& credentials, const Named& named) {
    bool is_md5 = !named.hash || *named.hash == MacHash::md5;
    return !is_md5 || credentials.legacy_md5;
}

}  // namespace

std::string create_response(const Credentials& credentials, std::string_view challenge) {
    if (challenge.size() < kLegacyChallenge)
        throw std::invalid_argument(
            fmt::format("sent a challenge of {} bytes: too short", challenge.size()));
    std::optional<Named> named = parse_named(challenge);
    if (!named) throw std::invalid_argument("sent a challenge that names no hash that is known");
    if (!allowed(credentials, *named)) throw std::invalid_argument(kLegacyHint);
    if (!named->hash) return hmac(MacHash::md5, credentials.authkey, challenge);
    return fmt::format("{{{}}}{}", mac_hash_name(*named->hash),
                       hmac(*named->hash, credentials.authkey, challenge));
}

std::string verify_response(const Credentials& credentials, std::string_view challenge,
                            std::string_view response) {
    std::optional<Named> named = parse_named(response);
    if (!named) return "gave an answer that names no hash that is known";
    if (!allowed(credentials, *named)) return kLegacyHint;
    std::string expected = hmac(named->hash.value_or(MacHash::md5), credentials.authkey, challenge);
    if (!equal_in_constant_time(expected, named->payload))
        return "does not know the authkey: its digest is wrong";
    return {};
}

Handshake::Handshake(Side side, const Credentials& credentials)
    : side_(side), credentials_(&credentials), state_(State::awaiting_challenge) {
    if (side == Side::listener) challenge();
}

std::string Handshake::take_output() { return std::exchange(output_, {}); }

std::span<std::byte> Handshake::wanted() {
    if (over()) return {};
    return std::span(frame_).subspan(filled_, frame_size_ - filled_);
}

void Handshake::received(std::size_t size) {
    SIDESTEP_ASSERT(!over() && size <= frame_size_ - filled_);
    filled_ += size;
    if (filled_ == FrameHeader::kShort && frame_size_ == FrameHeader::kShort) {
        ShortHeader header = decode_short_header(std::span(frame_).first<FrameHeader::kShort>());
        if (header.kind != ShortHeader::Kind::length || header.length > kMaxMessage)
            return fail(fmt::format("does not speak this protocol: a message of more than {} bytes",
                                    kMaxMessage));
        frame_size_ += static_cast<std::size_t>(header.length);
    }
    if (filled_ < frame_size_) return;
    std::string_view message(reinterpret_cast<const char*>(frame_.data()) + FrameHeader::kShort,
                             frame_size_ - FrameHeader::kShort);
    filled_ = 0;
    frame_size_ = FrameHeader::kShort;
    take_message(message);
}

void Handshake::fail(std::string reason) {
    // Also after the last message, if that does not go out: the peer would wait for it.
    if (state_ == State::failed) return;
    state_ = State::failed;
    reason_ = std::move(reason);
}

void Handshake::take_message(std::string_view message) {
    switch (state_) {
        case State::awaiting_challenge:
            return answer(message);
        case State::awaiting_answer:
            return judge(message);
        case State::awaiting_verdict:
            if (message == kFailure)
                fail("rejected our digest: its authkey is another one");
            else if (message != kWelcome)
                fail("does not speak this protocol: neither #WELCOME# nor #FAILURE#");
            else if (side_ == Side::listener)
                state_ = State::authenticated;
            else
                challenge();
            return;
        case State::awaiting_proof:
            return take_proof(message);
        case State::authenticated:
        case State::failed:
            return;
    }
}

void Handshake::challenge() {
    challenge_ = name_in_front(credentials_->hash) + random_bytes();
    challenge_ += side_ == Side::listener ? kListenersMark : kClientsMark;
    send(std::string(kChallenge) + challenge_);
    state_ = State::awaiting_answer;
}

void Handshake::answer(std::string_view message) {
    if (!message.starts_with(kChallenge))
        return fail("does not speak this protocol, or wants no authkey: no #CHALLENGE# came");
    std::string_view challenge = message.substr(kChallenge.size());
    if (challenge.ends_with(side_ == Side::client ? kClientsMark : kListenersMark))
        return fail(
            "sent a challenge that another process in our own role has made: it does not know the "
            "authkey, and looks for somebody who answers in its place");
    if (side_ == Side::client && challenge.ends_with(kListenersMark))
        return answer_bound(challenge);
    if (challenge.ends_with(kClientsMark))
        return fail(
            "speaks the handshake of Python, though both sides know a better one: somebody "
            "between has changed what they say");
    try {
        send(create_response(*credentials_, challenge));
        state_ = State::awaiting_verdict;
    } catch (const std::invalid_argument& error) {
        fail(error.what());
    }
}

void Handshake::judge(std::string_view answer) {
    if (side_ == Side::listener && answer.starts_with(kAnswer))
        return judge_bound(answer.substr(kAnswer.size()));
    std::string wrong;
    try {
        wrong = verify_response(*credentials_, challenge_, answer);
    } catch (const std::invalid_argument& error) {
        wrong = error.what();
    }
    if (!wrong.empty()) return refuse(std::move(wrong));
    send(kWelcome);
    state_ = side_ == Side::listener ? State::awaiting_challenge : State::authenticated;
}

void Handshake::refuse(std::string reason) {
    send(kFailure);
    fail(std::move(reason));
}

// --- the bound handshake ---------------------------------------------------------------------

// No challenge of Python's begins like this, so no answer to one is the same.
std::string Handshake::bound_mac(MacHash hash, Side role, std::string_view listeners,
                                 std::string_view clients) const {
    return hmac(hash, credentials_->authkey,
                fmt::format("Sidestep {} {} {} {}{}", role == Side::client ? "client" : "listener",
                            listeners.size(), clients.size(), listeners, clients));
}

void Handshake::answer_bound(std::string_view challenge) {
    try {
        peers_challenge_ = challenge;
        challenge_ = name_in_front(credentials_->hash) + random_bytes();
        send(std::string(kAnswer) + challenge_ +
             bound_mac(credentials_->hash, Side::client, peers_challenge_, challenge_));
        state_ = State::awaiting_proof;
    } catch (const std::invalid_argument& error) {
        fail(error.what());
    }
}

void Handshake::judge_bound(std::string_view answer) {
    std::optional<Named> named = parse_named(answer);
    if (!named || !named->hash || *named->hash == MacHash::md5)
        return refuse("gave an answer that names no hash that is known");
    if (named->payload.size() < kRandomBytes)
        return refuse("gave an answer without a challenge of its own: too short");
    std::size_t mac_size = named->payload.size() - kRandomBytes;
    std::string_view clients = answer.substr(0, answer.size() - mac_size);
    try {
        std::string expected = bound_mac(*named->hash, Side::client, challenge_, clients);
        if (!equal_in_constant_time(expected, answer.substr(clients.size())))
            return refuse("does not know the authkey: its digest is wrong");
        send(std::string(kWelcome) + name_in_front(credentials_->hash) +
             bound_mac(credentials_->hash, Side::listener, challenge_, clients));
        state_ = State::authenticated;
    } catch (const std::invalid_argument& error) {
        refuse(error.what());
    }
}

void Handshake::take_proof(std::string_view welcome) {
    if (welcome == kFailure) return fail("rejected our digest: its authkey is another one");
    std::optional<Named> named;
    if (welcome.starts_with(kWelcome)) named = parse_named(welcome.substr(kWelcome.size()));
    if (!named || !named->hash || *named->hash == MacHash::md5)
        return fail(
            "does not speak this protocol: neither a #WELCOME# with a digest nor "
            "#FAILURE#");
    try {
        std::string expected =
            bound_mac(*named->hash, Side::listener, peers_challenge_, challenge_);
        if (!equal_in_constant_time(expected, named->payload))
            return fail("does not know the authkey: its digest is wrong");
        state_ = State::authenticated;
    } catch (const std::invalid_argument& error) {
        fail(error.what());
    }
}

void Handshake::send(std::string_view message) {
    FrameHeader header = encode_header(message.size());
    output_.append(reinterpret_cast<const char*>(header.bytes), header.size);
    output_.append(message);
}

}  // namespace sidestep

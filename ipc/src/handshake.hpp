// The mutual challenge of Python's multiprocessing.connection (3.12 and later), without any I/O:
// whoever owns the socket moves the bytes.
//
//     listener -> client   #CHALLENGE#{sha256}<40 random bytes>
//     client -> listener   {sha256}<HMAC(key, "{sha256}<40 random bytes>")>
//     listener -> client   #WELCOME#, or #FAILURE#
// and then the same with the roles changed. Each is one frame, of 256 bytes at most. A side that
// answers may choose any allowed hash. Before 3.12 challenges are 20 bytes without a name in
// front, answers are the bare 16 bytes of HMAC-MD5: `legacy_md5`.
//
// State                  what comes        -> new state
// awaiting_challenge     #CHALLENGE#...    -> awaiting_verdict, our answer goes out
// awaiting_verdict       #WELCOME#         -> awaiting_answer (client: our challenge goes out),
//                                             authenticated (listener)
// awaiting_answer        the right HMAC    -> #WELCOME# goes out; awaiting_challenge (listener),
//                                             authenticated (client)
//                        a wrong one       -> #FAILURE# goes out; failed
// any                    anything else     -> failed
//
// Threads: belongs to one thread.
// Limits:  600 bytes; it never asks for more than one frame, so that no byte behind the handshake
//          is taken from the stream.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "frame.hpp"
#include "hmac.hpp"

namespace sidestep {

// What a side knows and allows.
struct Credentials {
    std::string authkey;
    MacHash hash = MacHash::sha256;  // of our own challenges
    bool legacy_md5 = false;
};

class Handshake {
  public:
    static constexpr std::size_t kMaxMessage = 256;
    enum class Side { listener, client };
    enum class State {
        awaiting_challenge,
        awaiting_verdict,
        awaiting_answer,
        authenticated,
        failed
    };

    // The credentials must outlive the handshake.
    Handshake(Side side, const Credentials& credentials);

    // Bytes to send now; each call returns those that came up since the last.
    std::string take_output();
    // Where the next bytes from the peer go, and how many are wanted; empty when it is over.
    std::span<std::byte> wanted();
    // `size` bytes were put there.
    void received(std::size_t size);
    // The peer is gone, too late, or broken.
    void fail(std::string reason);

    State state() const { return state_; }
    bool over() const { return state_ == State::authenticated || state_ == State::failed; }
    // Why it failed: a phrase that goes behind the peer's name.
    const std::string& reason() const { return reason_; }

  private:
    void take_message(std::string_view message);
    void challenge();
    void answer(std::string_view message);
    void judge(std::string_view answer);
    void send(std::string_view message);

    Side side_;
    const Credentials* credentials_;
    State state_;
    std::string output_;
    std::string challenge_;  // ours: "{sha256}<40 random bytes>"
    std::string reason_;
    std::array<std::byte, FrameHeader::kShort + kMaxMessage> frame_;
    std::size_t filled_ = 0;
    std::size_t frame_size_ = FrameHeader::kShort;
};

// The answer to a challenge (without "#CHALLENGE#"): "{hash}<HMAC>", or the bare HMAC-MD5 for a
// challenge of old. Throws std::invalid_argument with a phrase for what it does not answer.
std::string create_response(const Credentials& credentials, std::string_view challenge);
// Nothing if `response` answers `challenge` rightly; else why not.
std::string verify_response(const Credentials& credentials, std::string_view challenge,
                            std::string_view response);

}  // namespace sidestep

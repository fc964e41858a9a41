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
// Nothing in these HMACs says who made the challenge. Somebody who sits at an address that clients
// take for the listener's can have one client answer the challenge of another, and is then the
// listener to it. So a challenge of ours ends in a mark that says which side made it. It is part of
// what the HMAC covers, and nothing to Python, which takes longer challenges as they are. A client
// does not answer what a client made, nor a listener what a listener made. And a client that sees
// the listener's mark speaks the bound handshake, where either HMAC covers its sender's role and
// both challenges:
//
//     listener -> client   #CHALLENGE#{sha256}<40 random bytes><listener's mark>
//     client -> listener   #ANSWER#{sha256}<40 random bytes><HMAC(key, client, both)>
//     listener -> client   #WELCOME#{sha256}<HMAC(key, listener, both)>, or #FAILURE#
//
// A mark that somebody takes away makes the HMAC a wrong one. A client of ours whose listener is
// marked, and who speaks Python's handshake nevertheless, is refused. MD5 is never used here.
//
// What remains: a *Python* client answers everything, so where Python clients have the key, they
// can be used against a client of ours that thinks its listener is Python's. And whoever carries
// all bytes between two honest sides is not noticed, here as there: the key says who is there, and
// protects nothing that follows.
//
// State                  what comes        -> new state
// awaiting_challenge     #CHALLENGE#...    -> awaiting_verdict, our answer goes out; with the
//                                             listener's mark: awaiting_proof
// awaiting_verdict       #WELCOME#         -> awaiting_answer (client: our challenge goes out),
//                                             authenticated (listener)
// awaiting_answer        the right HMAC    -> #WELCOME# goes out; awaiting_challenge (listener),
//                                             authenticated (client)
//                        #ANSWER#, right   -> #WELCOME# with our HMAC goes out; authenticated
//                        a wrong one       -> #FAILURE# goes out; failed
// awaiting_proof         the right HMAC    -> authenticated
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

#include "connection/frame.hpp"
#include "connection/hmac.hpp"

namespace sidestep::inline v0 {

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
        awaiting_proof,
        authenticated,
        failed
    };

    // The credentials must outlive the handshake.
    Handshake(Side side, const Credentials& credentials);

    // Bytes to send now; each call returns those that came up since the last.
    std::string take_output();
    // Where the next bytes from the peer go, and how many are wanted; empty when it is over.
    std::span<std::byte> wanted();
    // `size` bytes were put there. What is thrown (std::bad_alloc, std::system_error) is this
    // side's trouble, not the peer's.
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
    void answer_bound(std::string_view challenge);
    void judge_bound(std::string_view answer);
    void take_proof(std::string_view welcome);
    void refuse(std::string reason);
    std::string bound_mac(MacHash hash, Side role, std::string_view listeners,
                          std::string_view clients) const;
    void send(std::string_view message);

    Side side_;
    const Credentials* credentials_;
    State state_;
    std::string output_;
    std::string challenge_;        // ours: "{sha256}<40 random bytes><mark>"
    std::string peers_challenge_;  // of the bound handshake, until the proof comes
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

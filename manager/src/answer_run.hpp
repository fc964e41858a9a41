// How the answers of a strand with many calls go out together.
//
// A server answers a call before the next one of its strand begins: so a client that loses it knows
// that of a thread's calls the first that was not answered may have begun, and no other. Where many
// short calls wait, a write for each is most of what they cost. So a ManagerServer says of some
// calls at once that they begin, runs them, and answers all of them together, with what it says of
// the next ones. It begins with one call, and takes twice as many each time, up to 64, as long as
// they are short. The answer of a call behind which nothing waits is sent at once.
//
// A call that takes long holds up the answers before it until the clock has seen them twice, in a
// millisecond or two; one that waits (wait_here) does not.
//
// Not of a process that is the server's own: there a call that costs the process would take the
// answers of those before it along, which had ended well.
//
// Threads: the strand's.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <utility>

#include "object_client.hpp"
#include "object_server.hpp"

namespace sidestep::inline v0::detail {

class ObjectServer::AnswerRun {
  public:
    AnswerRun(const ObjectServer& server, Client& client, std::uint64_t caller)
        : client_(client), caller_(caller), allowed_(server.rules_.exposed_only) {}

    // With the client's `queueing` held. call: is next; waiting: come after it.
    void look_ahead(const Call& call, const std::deque<Call>& waiting) {
        if (!allowed_) return;
        follow_ = !waiting.empty();
        if (left_ > 0) return (void)--left_;
        const auto now = std::chrono::steady_clock::now();
        size_ = next_size(now - began_);
        began_ = now;
        const std::size_t count = std::min(size_, 1 + waiting.size());
        last_ = count == 1 ? call.frame.head.request : waiting[count - 2].frame.head.request;
        left_ = count - 1;
        announces_ = true;
    }
    // Outside of it: what is to be sent before that call begins is sent.
    void begin() {
        if (!std::exchange(announces_, false)) return;
        if (left_ > 0)
            while (!client_.hold({FrameKind::begins, last_, caller_, 0, {}}, {}))
                pause_for_memory();
        client_.flush();
    }
    // Whether the answer of that call may wait for the next one's.
    bool hold() const { return follow_; }
    void end() {
        if (allowed_) client_.flush();  // what was to follow was taken back
    }

  private:
    static constexpr std::size_t kMost = 64;
    static constexpr std::chrono::microseconds kShort{500};  // for all of them

    std::size_t next_size(std::chrono::nanoseconds took) const {
        if (size_ == 0 || took > 4 * kShort) return 1;
        return took > kShort ? std::max<std::size_t>(size_ / 2, 1) : std::min(2 * size_, kMost);
    }

    Client& client_;
    const std::uint64_t caller_;
    const bool allowed_;
    std::size_t size_ = 0, left_ = 0;
    std::chrono::steady_clock::time_point began_{};
    std::uint64_t last_ = 0;
    bool announces_ = false, follow_ = false;
};

}  // namespace sidestep::detail

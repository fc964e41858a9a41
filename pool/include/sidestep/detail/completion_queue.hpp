// Waiting for several tasks. Internal.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <optional>
#include <vector>

#include <sidestep/detail/deadline.hpp>

namespace sidestep::inline v0::detail {

// Where somebody who waits for several tasks is told which of them are done.
class CompletionQueue {
  public:
    // With a descriptor it says by that, too, whether it is empty.
    enum class Descriptor { no, yes };
    explicit CompletionQueue(Descriptor descriptor = Descriptor::no);
    ~CompletionQueue();
    CompletionQueue(const CompletionQueue&) = delete;
    CompletionQueue& operator=(const CompletionQueue&) = delete;

    // Readable while there is something.
    int fd() const { return fd_; }
    // Makes room for one more push().
    void expect();
    // It will not come.
    void expect_no_more() noexcept;
    // Never throws after an expect() of its own.
    void push(std::size_t tag);
    // Without one. Throws std::bad_alloc; the room that others expect is left to them.
    void add(std::size_t tag) {
        expect();
        push(tag);
    }
    bool empty() const;
    // Takes the next one, if there is one.
    std::optional<std::size_t> pop();
    // Waits until there is one. False: the deadline passed.
    bool wait(const Deadline& deadline);

  private:
    int fd_ = -1;  // an eventfd, or none
    mutable std::mutex mutex_;
    std::condition_variable pushed_;
    // Guarded by mutex_.
    std::vector<std::size_t> tags_;  // from next_ on; those before were popped
    std::size_t next_ = 0;
    std::size_t expected_ = 0;
};

}  // namespace sidestep::detail

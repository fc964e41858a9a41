// A thread that pulls a stream's input, for results to be handed over while the input blocks.
// Internal.
//
// The two take turns: it pulls only while the consumer waits in the stream, and the consumer goes
// on when it has got what it asked for. Only a pull that takes longer than a millisecond is left
// alone, and goes on beside the consumer.
//
// Threads: one consumer.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include <sidestep/detail/task_state.hpp>

namespace sidestep::inline v0::detail {

class ServiceThread;

class InputThread {
  public:
    // pull() gets one more item, or says that there is none; keep() puts it where take() finds it.
    // What pull() throws stands for an item, and is the end.
    InputThread(std::function<bool()> pull, std::function<void()> keep);
    ~InputThread();  // waits for the pull that is under way
    InputThread(const InputThread&) = delete;
    InputThread& operator=(const InputThread&) = delete;

    // Waits for `most` items, the end, or a pause of the input; without end while there is no item
    // and the consumer has nothing else to wait for.
    void await(std::size_t most, bool nothing_else);
    // Goes on up to `most` items; `wake` is told of the first, or of the end.
    void go_on(std::size_t most, std::shared_ptr<CompletionQueue> wake);
    // No more for now.
    void rest();

    // Items that can be taken.
    std::size_t available();
    // True: after what is available comes nothing but the error, if there is one.
    bool ended();
    void rethrow_error();  // once
    template <class Take>
    auto take(Take from_kept) {
        std::lock_guard lock(mutex_);
        --kept_;
        return from_kept();
    }

  private:
    void run();
    void note_pull(bool got, std::exception_ptr error);

    // Constant after construction.
    std::function<bool()> pull_;
    std::function<void()> keep_;

    std::mutex mutex_;
    std::condition_variable asked_, pulled_;
    // Guarded by mutex_.
    std::size_t kept_ = 0, wanted_ = 0;
    std::size_t tell_at_ = 0;  // the consumer waits for so many; 0: it does not
    bool overdue_ = false;     // the pull under way was waited for long enough
    bool ended_ = false, leaves_ = false;
    std::exception_ptr error_;
    std::shared_ptr<CompletionQueue> wake_;

    std::unique_ptr<ServiceThread> thread_;
};

}  // namespace sidestep::detail

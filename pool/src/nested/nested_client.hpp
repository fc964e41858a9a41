// this_task::pool() in a worker process: asks the process of the pool.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include <sidestep/detail/nested_pool.hpp>

#include "nested/bytes_task.hpp"
#include "nested/nested_message.hpp"
#include "service_thread.hpp"
#include "sys/file_identity.hpp"
#include "sys/fork_marker.hpp"
#include "sys/parent_fd.hpp"

namespace sidestep::inline v0::detail {

class NestedTask;

// Begins when a task first submits something: a pair of sockets, one of which goes to the pool's
// process over the control socket, and a thread that takes what comes back. It is never destroyed
// before the process ends.
//
// Lock order: requests_, then sending_ or mutex_; mutex_, then what wakes who waits.
class NestedClient final : public NestedPool, public std::enable_shared_from_this<NestedClient> {
  public:
    // control: the worker's control socket, which outlives this object.
    NestedClient(int control, unsigned processes)
        : control_{control, sys::FileIdentity(control)}, processes_(processes) {}

    TaskRef submit(NestedOrder& order) override;
    unsigned processes() const override { return processes_; }
    bool begin_wait(const NestedWait& wait) override;
    void end_wait() noexcept override;
    bool is_called() const noexcept override { return called_.load(std::memory_order_acquire); }
    void serve(const NestedWait& wait) override;
    void taken_by(std::uint64_t task) noexcept override {
        user_.store(task, std::memory_order_relaxed);  // read by the same thread
    }

    // For its tasks.
    bool cancel(const NestedTask& task);
    void forget(const NestedTask& task) noexcept;
    CallbackThread& callbacks() { return callbacks_; }

  private:
    // lost: nothing comes any more, and who waits is being told. Then there is none, until somebody
    // asks for the next one.
    enum class Line { none, open, lost };

    void require_here() const;
    void open();
    void send_other_end(int socket);
    void read_answers() noexcept;
    void complete(std::uint64_t number, NestedHead::Ending ending, Blob message) noexcept;
    void lose() noexcept;
    Ref<NestedTask> take(std::uint64_t number);
    Blob ask(BlobBuffer& question, const BlobFds& fds = {});  // with requests_ held
    Blob ask_alone(BlobBuffer& question);
    void tell(BlobBuffer& message, const BlobFds& fds = {});
    Ref<NestedTask> make_task();
    Ref<NestedTask> send(const NestedOrder& order, std::uint64_t after);
    void take_order(const NestedHead& head, Blob order);
    NestedHead next_wait(const NestedWait& wait);
    void run_here(Blob& order, BlobBuffer& result, NestedHead& reply);

    struct Control {
        int fd;
        sys::FileIdentity file;
    };
    const Control control_;
    const unsigned processes_;
    const ForkMarker process_;
    CallbackThread callbacks_;

    std::mutex requests_;  // the turn of whoever asks something
    // Guarded by requests_.
    ServiceThread reader_;

    std::mutex sending_;
    ParentFd socket_;  // written with both held
    std::mutex mutex_;
    // Guarded by mutex_.
    std::condition_variable answered_;
    std::optional<Blob> answer_;
    Line line_ = Line::none;
    std::uint64_t last_wait_ = 0;
    const NestedWait* wait_ = nullptr;  // the one that this number is of; null: none is under way
    std::optional<Blob> order_;         // what is to be run in it
    std::uint64_t last_number_ = 0;
    std::map<std::uint64_t, NestedTask*> open_;  // those that are not done, and that somebody has

    std::atomic<std::size_t> count_{0};   // of open_; relaxed: a task's own are all that matter
    std::atomic<std::uint64_t> user_{0};  // the task that has asked for this last
    std::atomic<bool> called_{false};     // SYNC(called): there is an order
};

// A nested task, as the worker has it that submitted it.
class NestedTask final : public BytesTask<> {
  public:
    NestedTask(std::shared_ptr<NestedClient> client, std::uint64_t its_number)
        : number(its_number), client_(std::move(client)) {}

    bool cancel() override;
    // What is called back may submit and wait: not in the thread that takes the answers.
    bool add_callback(std::function<void()>& callback) override;
    bool belongs_to(const NestedClient& client) const { return client_.get() == &client; }
    std::shared_ptr<NestedPool> nested_pool() const override { return client_; }

    const std::uint64_t number;

  private:
    ~NestedTask() override;

    const std::shared_ptr<NestedClient> client_;
};

}  // namespace sidestep::detail

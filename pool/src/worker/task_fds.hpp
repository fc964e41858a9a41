// Descriptors inside a task's arguments (handles of shared objects, connections): they travel
// beside the ring, over the worker's control socket, and are sent before the task is published.
//
// A worker has few of them at a time (FdsInFlight), since it has to keep them until their tasks'
// turn comes.
//
// A task that is taken back has its descriptors sent once more with its next worker. The first one
// is told to close them, which it does within a second of the end of what it is at; if that could
// not be said, since the socket was full, when kMostKept later tasks' have come.
//
// A lasting one (FdSink::put_lasting: the segment of a shared object) is sent to a worker once, and
// stands in the arguments of all tasks by its identity. The worker keeps what it made of it until
// it is told to let go, which is when the parent has the object no more. What a task needs is owned
// by that task until it is done, so nothing is let go that a task in flight needs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <sidestep/archive.hpp>
#include <sidestep/detail/pool_task.hpp>

#include "sys/fd.hpp"

namespace sidestep::inline v0 {

// The head of a message on the control socket, and its descriptors.
struct TaskFdsMessage {
    static constexpr std::uint64_t kMagic = 0x736466736b7374;
    static constexpr std::size_t kMostInOne = 64;
    enum class Kind : std::uint64_t {
        of_task,  // they are [first, first + n) of the task's; `number` is its serial. None: it was
                  //   taken back
        lasting,  // one; `number` is its identity
        let_go    // none
    };
    std::uint64_t magic = kMagic;
    Kind kind = Kind::of_task;
    std::uint64_t number = 0;
    std::uint64_t first = 0;
};

// Sends a task's descriptors. False: the socket is full, or the worker is gone; try again later.
bool send_task_fds(int control, std::uint64_t serial, std::span<const int> fds);
// The task was taken back: its worker need not keep these.
void take_back_task_fds(int control, std::uint64_t serial, std::span<const int> fds) noexcept;

// Which tasks with descriptors of their own are in a worker's ring, by their places in the order of
// all that were put there. Threads: the caller serialises.
class FdsInFlight {
  public:
    static constexpr std::size_t kMost = 64;  // descriptors, or one task

    // Those at the places from `begin` on, and before `end`, are in the ring now. True: another
    // task, with so many, may come.
    bool has_room(std::size_t fds, std::uint64_t begin, std::uint64_t end) const;
    // It comes. Requires: has_room().
    void add(std::size_t fds, std::uint64_t begin, std::uint64_t end);

  private:
    // One that was taken back counts as whatever has its place now.
    struct Sent {
        std::uint64_t place = 0;
        std::size_t fds = 0;  // 0: this entry is free
        bool is_in(std::uint64_t begin, std::uint64_t end) const {
            return place >= begin && place < end;
        }
    };
    std::array<Sent, kMost> sent_{};
};

// Which lasting descriptors a worker has, as the parent knows it. Threads: the caller serialises.
class GivenFds {
  public:
    using Lasting = detail::TaskDescriptors::Lasting;

    bool empty() const { return given_.empty(); }
    // Sends those that the worker does not have. False: as above.
    bool give(int control, std::span<const Lasting> wanted);
    // Tells the worker to let go of those whose owners are gone.
    void take_back(int control);
    // It did not get one of these (it had no descriptors left): they are sent once more.
    void forget(std::span<const Lasting> fds);

  private:
    static constexpr std::size_t kNewOnes = 64;
    std::unordered_map<std::uint64_t, std::weak_ptr<const void>> given_;
    std::size_t look_at_ = kNewOnes;  // when there are so many
};

// The worker's side: one thread.
class TaskFds final : public detail::FdSource {
  public:
    static constexpr std::size_t kMostKept = 4 * FdsInFlight::kMost;  // tasks

    explicit TaskFds(Fd control);
    // The task whose arguments are read next, with so many descriptors. Throws SerializationError
    // if they did not come.
    void open(std::uint64_t serial, std::uint64_t count);
    // Waits until they have come: for those of the initializer, which nothing else announces.
    void await(std::uint64_t serial, std::uint64_t count, std::uint64_t lasting);
    int get(std::uint64_t number) override;
    std::shared_ptr<void> get_lasting(std::uint64_t number, Make make) override;
    // Drops what the task has not taken.
    void close() { current_.clear(); }
    // Lets go of what it was told to: lasting ones, and tasks' that were taken back. To be called
    // now and then.
    void tidy();
    // A lasting one did not come, since this was asked last.
    bool lacked() { return std::exchange(lacked_, false); }
    int control() const { return control_.get(); }

  private:
    struct Kept {
        Fd fd;                         // until it is first asked for,
        std::shared_ptr<void> object;  //   then this
    };
    // Of a task that has not begun.
    struct Waiting {
        std::uint64_t arrival = 0;
        std::vector<Fd> fds = {};
    };
    bool receive();
    void keep(std::uint64_t serial, std::vector<Fd> fds);
    // What kept back what did not come; `unseen` if nothing is known of that.
    std::string why_missing(std::string unseen) const;

    Fd control_;
    std::map<std::uint64_t, Waiting> waiting_;  // by serial
    std::uint64_t arrivals_ = 0;
    std::vector<Fd> current_;
    std::unordered_map<std::uint64_t, Kept> lasting_;  // by identity
    bool lacked_ = false;
    int trouble_ = 0;  // that kept the last descriptor from coming; 0: none was seen
};

}  // namespace sidestep

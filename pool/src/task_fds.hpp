// Descriptors inside a task's arguments (handles of shared objects, connections): they travel
// beside the ring, over the worker's control socket, and are sent before the task is published.
//
// A task that is taken back has its descriptors sent once more with its next worker; what the first
// one got and did not use is closed there when kMostKept later ones have come.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include <sidestep/archive.hpp>

#include "fd.hpp"

namespace sidestep {

// The head of a message on the control socket; its descriptors are [first, first + n) of the
// task's.
struct TaskFdsMessage {
    static constexpr std::uint64_t kMagic = 0x736466736b7374;
    static constexpr std::size_t kMostInOne = 64;
    std::uint64_t magic = kMagic;
    std::uint64_t serial = 0;
    std::uint64_t first = 0;
};

// Sends a task's descriptors. False: the socket is full, or the worker is gone; try again later.
bool send_task_fds(int control, std::uint64_t serial, std::span<const int> fds);

// The worker's side: one thread.
class TaskFds final : public detail::FdSource {
  public:
    static constexpr std::size_t kMostKept = 64;  // tasks

    explicit TaskFds(Fd control);
    // The task whose arguments are read next, with so many descriptors. Throws SerializationError
    // if they did not come.
    void open(std::uint64_t serial, std::uint64_t count);
    // Waits until they have come: for those of the initializer, which nothing else announces.
    void await(std::uint64_t serial, std::uint64_t count);
    int get(std::uint64_t number) override;
    // Drops what the task has not taken.
    void close();

  private:
    bool receive();

    Fd control_;
    std::map<std::uint64_t, std::vector<Fd>> waiting_;  // by serial
    std::vector<Fd> current_;
};

}  // namespace sidestep

// Producers of a queue: who holds one keeps the queue from its end.
//
// What counts them is the kernel. Each producer is an open file description of its own of the
// queue's memory, with a lock on it (fcntl(2), open file description locks). It travels as a
// descriptor, so it is there on its way too, and goes with the last descriptor of it, however its
// holders end. Whoever has the queue can ask whether there is such a lock.
#pragma once

#include <sidestep/detail/queue_core.hpp>

#include <memory>

#include "queue/queue_state.hpp"
#include "sys/fd.hpp"

namespace sidestep::inline v0::detail {

// This process's share of a producer. In a forked child it has no descriptor: a copy that nobody
// knows of would keep the queue from its end.
class ProducerHold {
  public:
    ProducerHold(std::shared_ptr<QueueCore::Local> queue, Fd fd);
    ~ProducerHold();
    ProducerHold(const ProducerHold&) = delete;
    ProducerHold& operator=(const ProducerHold&) = delete;

    int fd() const { return fd_.get(); }
    void leave_to_parent() noexcept { fd_.reset(); }

  private:
    std::shared_ptr<QueueCore::Local> queue_;
    Fd fd_;
};

}  // namespace sidestep::detail

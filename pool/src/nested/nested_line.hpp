// The parts of NestedDesk: the way to one worker, and a task on its way. Included by the sources of
// the desk alone.
#pragma once

#include <sys/socket.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include <sidestep/detail/completion_queue.hpp>

#include "nested/bytes_task.hpp"
#include "nested/nested_desk.hpp"
#include "service_thread.hpp"
#include "sys/fd.hpp"
#include "sys/parent_fd.hpp"

namespace sidestep::inline v0::detail {

inline std::vector<int> numbers_of(const std::vector<Fd>& fds) {
    std::vector<int> numbers;
    for (const Fd& fd : fds) numbers.push_back(fd.get());
    return numbers;
}

struct NestedDesk::Line {
    Line(std::uint32_t its_lane, int its_pid, Fd its_socket)
        : lane(its_lane), pid(its_pid), socket(std::move(its_socket)) {}
    // What has come is read still, and then the end. Its worker may begin another one.
    void shut() const noexcept {
        is_shut = true;
        (void)::shutdown(socket.get(), SHUT_RDWR);
    }

    // Constant after construction.
    const std::uint32_t lane;
    const int pid;
    const ParentFd socket;
    // The numbers of tasks that are done, from 1 on; or there is an order.
    static constexpr std::size_t kOrderTag = 0;
    const std::shared_ptr<CompletionQueue> finished =
        std::make_shared<CompletionQueue>(CompletionQueue::Descriptor::yes);
    ServiceThread thread;
    mutable std::atomic<bool> is_shut{false};
    // Guarded by the desk's mutex.
    bool ended = false;  // or all but: its thread can be joined at once
    Flights flights;     // by the worker's number
    // While its task waits:
    std::uint64_t wait = 0, awaited = 0;
    bool can_serve = false;
    bool has_room = false;          // in `finished`, for the next order
    std::shared_ptr<Flight> order;  // that it is to run
    std::uint64_t order_sent = 0;   // the ticket of the last one that it was told of
};

// What comes of a task that was lent, for those that are to come after it.
class LentResult final : public BytesTask<> {};

// A nested task, until whoever submitted it has been told what came of it.
struct NestedDesk::Flight {
    Flight() = default;
    ~Flight() {
        if (room) room->expect_no_more();
    }
    Flight(const Flight&) = delete;
    Flight& operator=(const Flight&) = delete;

    void make_room(std::shared_ptr<CompletionQueue> finished) {
        Flights one;
        one.emplace();
        place = one.extract(one.begin());
        finished->expect();
        room = std::move(finished);
    }
    // It is lent no more.
    void take_place(Flights::node_type its_own) noexcept {
        place = std::move(its_own);
        place.mapped() = nullptr;
    }
    // Its end is to be looked at by who asked for it. With the desk's mutex held.
    void tell() noexcept {
        if (asker && room) std::exchange(room, nullptr)->push(head.number);
    }
    // Its task takes no listener any more: it is done, or was lent meanwhile, and will come back.
    void tell_if_done() noexcept {
        if (ticket == 0) tell();
    }
    void come_back() noexcept {
        came_back = true;
        settle();
        tell();
    }
    // What it came back with is its result's.
    void settle() noexcept;

    // Constant since it was submitted.
    NestedHead head;
    Blob order;  // as it came, but for its descriptors
    std::vector<Fd> fds;
    // Guarded by the desk's mutex.
    Line* asker = nullptr;  // null: nobody wants it any more
    PoolTaskRef task;
    bool can_be_lent = true;  // no: it has limits, or waits for another one, or one for it
    Ref<LentResult> result;   // null: none waits for it that came when it was lent
    // It was taken back, and is run by a worker that waits:
    std::uint64_t ticket = 0;  // 0: it was not
    Line* borrower = nullptr;
    bool is_cancelled = false;  // its line has ended
    bool came_back = false;     // with this:
    NestedHead::Ending ending = NestedHead::Ending::value;
    std::vector<std::byte> bytes;
    std::exception_ptr failure;  // or this
    // Had when it was submitted, so that what follows needs no memory:
    Flights::node_type place;               // in lent_
    std::shared_ptr<CompletionQueue> room;  // the asker's queue, which has room for its number
};

}  // namespace sidestep::detail

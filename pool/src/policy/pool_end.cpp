#include "policy/pool_end.hpp"

#include <signal.h>

#include <utility>

#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {

void fail_at_end(const PoolRooms& rooms, PoolTask* task, Hold& hold) noexcept {
    if (rooms.life.broken())
        rooms.task_end.fail(task, rooms.life.why_broken(), hold);
    else
        rooms.task_end.cancel(task, spare_errors().terminated, hold);
}

// If the pool ends now, Retry::when is asked in vain.
template <class F>
void PoolEnd::for_each_waiting(F end, Hold& hold) {
    while (PoolTask* task = rooms_.dispatcher.backlog().pop_anything()) end(task);
    while (PoolTask* task = late_.take_one(hold)) end(task);
    if (!rooms_.life.ending()) return;
    for (PoolTask* task : retries_.take_all()) end(task);
}

void PoolEnd::break_down(std::exception_ptr reason, Hold& hold) noexcept {
    rooms_.life.break_down(std::move(reason));
    for_each_waiting([&](PoolTask* task) POOL_LOCKED { fail_at_end(rooms_, task, hold); }, hold);
    for (Lane* lane : rooms_.dispatcher.lanes()) lane->signal(SIGKILL, hold);
    if (Elsewhere* elsewhere = rooms_.dispatcher.elsewhere()) elsewhere->end(true);
}

void PoolEnd::cancel_all(Hold& hold) {
    for_each_waiting(
        [&](PoolTask* task)
            POOL_LOCKED { rooms_.task_end.cancel(task, spare_errors().terminated, hold); },
        hold);
    for (Lane* lane : rooms_.dispatcher.lanes()) lane->signal(SIGTERM, hold);
    if (Elsewhere* elsewhere = rooms_.dispatcher.elsewhere()) elsewhere->end(true);
}

void PoolEnd::cancel_waiting(Hold& hold) {
    const std::exception_ptr& why =
        rooms_.life.interrupted() ? spare_errors().interrupted : spare_errors().shut_down;
    for (Lane* lane : rooms_.dispatcher.lanes()) lane->take_back(0, hold);
    if (Elsewhere* elsewhere = rooms_.dispatcher.elsewhere()) elsewhere->cancel_waiting();
    for_each_waiting([&](PoolTask* task) POOL_LOCKED { rooms_.task_end.cancel(task, why, hold); },
                     hold);
}

void PoolEnd::cancel_late(Hold& hold) {
    while (PoolTask* task = late_.take_one(hold))
        rooms_.task_end.cancel(task, spare_errors().waited_in_vain, hold);
}

}  // namespace sidestep::detail

#include "spare_errors.hpp"

namespace sidestep::inline v0::detail {
namespace {

std::exception_ptr cancelled(const char* text) {
    return std::make_exception_ptr(CancelledError(text));
}

const SpareErrors* make() {
    return new SpareErrors{
        .no_memory = std::make_exception_ptr(std::bad_alloc()),
        .lost = std::make_exception_ptr(WorkerLost({})),
        .timed_out = std::make_exception_ptr(TaskTimeout({})),
        .out_of_memory = std::make_exception_ptr(OutOfMemory({})),
        .host_lost = std::make_exception_ptr(
            HostLost("",
                     "the host that had the task is lost, and there was no memory left to say "
                     "why; the task may have run, in part or as a whole")),
        .cancelled = cancelled("the task was cancelled"),
        .terminated = cancelled("the task was cancelled: its pool was terminated"),
        .shut_down = cancelled("the task was cancelled: its pool was shut down before it began"),
        .interrupted = cancelled("the task was cancelled: its pool was interrupted"),
        .ended = cancelled("the task was cancelled: the pool has ended"),
        .waited_in_vain = cancelled(
            "the task was cancelled: its pool was destroyed while it waited for a future that is "
            "no task of that pool"),
        .unbegun = cancelled(
            "the item was cancelled: its map was ended, or its pool terminated, before it began"),
        .broken = std::make_exception_ptr(BrokenPool(
            "the pool is broken, and there was no memory left to say why: give the program more, "
            "or less to do at a time"))};
}

}  // namespace

const SpareErrors& spare_errors() noexcept {
    static const SpareErrors* const errors = make();
    return *errors;
}

namespace {
[[maybe_unused]] const SpareErrors& when_loaded = spare_errors();
}

}  // namespace sidestep::detail

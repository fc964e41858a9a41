// How a map or a stream ends before its items do: by an error, in time, or by whoever asked for it.
// Internal.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>

#include <sidestep/detail/deadline.hpp>
#include <sidestep/pool_options.hpp>

namespace sidestep::inline v0::detail {

// One that has none of it (null) goes on to its last item.
struct EarlyEnd {
    explicit EarlyEnd(const MapOptions& options)
        : fail_fast(options.fail_fast),
          limit(options.deadline),
          deadline(limit.count() > 0 ? deadline_after(limit) : Deadline()) {}
    static std::unique_ptr<EarlyEnd> of(const MapOptions& options) {
        if (!options.fail_fast && options.deadline.count() == 0) return nullptr;
        return std::make_unique<EarlyEnd>(options);
    }

    bool is_cancelled() const {  // relaxed: a request, and whoever makes it wakes who waits
        return cancelled && cancelled->load(std::memory_order_relaxed);
    }
    bool is_over() const { return is_cancelled() || detail::is_over(deadline); }

    bool fail_fast;
    Timeout limit;
    Deadline deadline;
    // From another thread; null: nobody can.
    std::shared_ptr<std::atomic<bool>> cancelled;
};

// An item's error that is the last that comes.
struct FailedItem {
    std::size_t index;  // in the input
    std::exception_ptr error;
};

// Where a map was when its deadline came: the first item that was not finished.
struct UnfinishedItem {
    std::uint64_t item = 0;
    std::uint64_t task = 0;  // that had it; 0: none yet
    const void* function = nullptr;
    const char* type = "";  // of the callable, as typeid() spells it
    bool of_threads = false;
};
// A TaskTimeout.
std::exception_ptr deadline_error(const UnfinishedItem& where, Timeout limit);
// A CancelledError.
std::exception_ptr ended_item_error();

}  // namespace sidestep::detail

#include <sidestep/detail/early_end.hpp>

#include <fmt/format.h>

#include <new>
#include <string>
#include <typeinfo>
#include <utility>

#include <sidestep/outcome.hpp>
#include <sidestep/pool_errors.hpp>

#include "spare_errors.hpp"
#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {

std::exception_ptr deadline_error(const UnfinishedItem& where, Timeout limit) {
    return made_or(spare_errors().timed_out, [&] {
        TaskError::Details details;
        details.task = where.task;
        details.item = where.item;
        details.function = where.function;
        details.task_type = demangle(where.type);
        details.limit = static_cast<std::uint64_t>(limit.count());
        details.of_map = where.of_threads ? TaskError::OfMap::threads : TaskError::OfMap::processes;
        return std::make_exception_ptr(TaskTimeout(std::move(details)));
    });
}

void rethrow_of_map(const std::exception_ptr& error, std::size_t done, std::size_t items) {
    std::string text;
    try {
        std::rethrow_exception(error);
    } catch (const CancelledError& cancelled) {
        try {
            if (typeid(cancelled) == typeid(CancelledError))
                text = fmt::format(
                    "{}. {} of the map's {}items were done: to keep such results, loop over the "
                    "outcomes() of imap() instead",
                    cancelled.what(), done, items > 0 ? fmt::format("{} ", items) : "");
        } catch (const std::bad_alloc&) {  // it goes without
        }
    } catch (...) {
    }
    if (text.empty()) std::rethrow_exception(error);
    throw CancelledError(text);
}

std::exception_ptr ended_item_error() { return spare_errors().unbegun; }

}  // namespace sidestep::detail

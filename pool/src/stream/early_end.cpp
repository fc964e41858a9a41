#include <sidestep/detail/early_end.hpp>

#include <utility>

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

std::exception_ptr ended_item_error() { return spare_errors().unbegun; }

}  // namespace sidestep::detail

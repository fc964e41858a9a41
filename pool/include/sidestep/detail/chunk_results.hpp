// What is in a chunk that came back from a worker. Internal.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>

#include <sidestep/detail/chunk.hpp>
#include <sidestep/detail/early_end.hpp>
#include <sidestep/detail/pool_task.hpp>
#include <sidestep/outcome.hpp>

namespace sidestep::inline v0::detail {

// Result: void, or of the type of each value.
template <class Result>
typename Outcome<Result>::Value read_value(ChunkReader& reader) {
    auto value = make_blank<typename Outcome<Result>::Value>();
    if constexpr (!std::is_void_v<Result>) load_sized(reader.values(), value);
    return value;
}

// Its `at`-th item threw this: runs it again if its options say so, and says what became of it.
// finish(task) waits for a task; nothing: it gave that up.
template <class Result, class Finish>
std::optional<Outcome<Result>> run_again(PoolTaskRef task, std::uint32_t at,
                                         std::exception_ptr error, Finish finish) {
    const std::size_t index = task->items().first + task->items().begin + at;
    while ((task = PoolTask::run_item_again(task, at, error))) {
        at = 0;
        try {
            if (!finish(*task)) return {};
            while (const PoolTask::Split* split = task->split()) {  // it cost its worker
                if (!split->again) return {{index, split->error}};
                task = split->again;
                if (!finish(*task)) return {};
            }
            ChunkReader reader;
            reader.open(task->result(), 1);
            error = reader.next_error(0);
            if (!error) return {{index, read_value<Result>(reader)}};
        } catch (...) {
            return {{index, std::current_exception()}};
        }
    }
    return {{index, std::move(error)}};
}

// The first of its items that failed, and is not run again.
template <class Result>
std::optional<FailedItem> failure_in(const PoolTask& task) {
    std::size_t first = task.items().first + task.items().begin;
    std::size_t items = task.items().end - task.items().begin;
    try {
        ChunkReader reader;
        reader.open(task.result(), items);
        const PoolTask::Split* split = task.split();
        std::size_t run = split ? task.items_done() : items;
        if (reader.has_errors() && !task.runs_items_again())
            for (std::size_t i = 0; i < run; ++i) {
                if (auto error = reader.next_error(i))
                    return FailedItem{first + i, std::move(error)};
                if constexpr (!std::is_void_v<Result>) skip_sized<Result>(reader.values());
            }
        if (split && split->error) return FailedItem{first + run, split->error};
    } catch (...) {
        return FailedItem{first, std::current_exception()};
    }
    return {};
}

}  // namespace sidestep::detail

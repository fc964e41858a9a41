// this_task::pool() in a ThreadPool: a nested task is a job like others. Its values travel all the
// same, so that what runs here runs in a Pool.
#pragma once

#include <memory>

#include <sidestep/detail/nested_pool.hpp>

namespace sidestep::inline v0::detail {

std::shared_ptr<NestedPool> make_thread_nested(std::weak_ptr<ThreadPoolCore> core,
                                               unsigned threads);

}  // namespace sidestep::detail

// The inside of a Pool, for what drives one.
#pragma once

#include <memory>

#include <sidestep/pool.hpp>

namespace sidestep::inline v0::detail {

struct PoolAccess {
    static const std::shared_ptr<PoolCore>& core(const Pool& pool) { return pool.core_; }
};

}  // namespace sidestep::detail

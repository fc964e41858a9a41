// Why a task has no result.
#pragma once

namespace sidestep::inline v0::detail {

// What Retry tells apart.
enum class FailureKind : unsigned char { error, timeout, crash, out_of_memory, cancelled };

}  // namespace sidestep::detail

// Where the time of a task goes: reading its arguments, the call itself, writing its result.
// Internal.
//
// Who runs a task and wants to know hands one of these along with the archive of the result.
// Threads: one.
#pragma once

#include <cstdint>

namespace sidestep::inline v0::detail {

// The steady clock, which is the same for all processes.
std::uint64_t steady_now_ns();

class CallTimes {
  public:
    // Of a chunk's items, one of so many is measured.
    static constexpr std::uint64_t kItemsForOne = 1024;

    // What follows is the reading of arguments; each of the others ends a part.
    void begin();
    void arguments_read() { end_part(serialize_ns_); }
    void called() { end_part(call_ns_); }
    void result_written() { end_part(serialize_ns_); }

    // What part of a duration was spent on reading and writing, going by what was measured.
    std::uint64_t serialize_part(std::uint64_t duration_ns) const;

  private:
    void end_part(std::uint64_t& sum);

    std::uint64_t at_ = 0;
    std::uint64_t serialize_ns_ = 0;
    std::uint64_t call_ns_ = 0;
};

}  // namespace sidestep::detail

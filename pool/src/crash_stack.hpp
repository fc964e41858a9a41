// Where a worker was when a signal ended it: written by its signal handler into memory that it
// shares with its parent, read and given names there.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sidestep::inline v0 {

// The name of a module is the loader's, hashed: the worker runs the same program.
struct CrashRecord {
    static constexpr std::size_t kMostFrames = 32;
    struct Frame {
        std::uint64_t module = 0;
        std::uint64_t offset = 0;
    };

    enum class Fault : std::uint32_t { none, address, stack_overflow };

    std::atomic<std::uint32_t> count{0};  // of frames; 0: there was no crash
    Fault fault = Fault::none;
    std::uint64_t fault_address = 0;  // that the program reached for, if `fault` says so
    Frame frames[kMostFrames];
};

// In a worker: a fatal signal fills the record, then ends the process as it would have. Signals
// that have a handler already are left alone. The record must not go before the process does.
void record_crashes(CrashRecord& record);

// In the parent: the frames as addresses of this process, the innermost first; what cannot be found
// here is left out.
std::vector<const void*> crash_addresses(const CrashRecord& record);
// "it reached for address 0x10...", or that its stack looks overflown; empty: nothing is known.
std::string describe_fault(const CrashRecord& record);

}  // namespace sidestep

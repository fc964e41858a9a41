// Where a worker was when a signal ended it, or when it was asked: written by its signal handlers
// into memory that it shares with its parent, read and given names there.
#pragma once

#include <signal.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace sidestep::inline v0 {

// The name of a module is the loader's, hashed: the worker runs the same program.
struct StackRecord {
    static constexpr std::size_t kMostFrames = 32;
    struct Frame {
        std::uint64_t module = 0;
        std::uint64_t offset = 0;
    };

    std::atomic<std::uint64_t> count{0};  // of frames; 0: nothing was written yet
    Frame frames[kMostFrames];
};

struct CrashRecord {
    enum class Fault : std::uint64_t { none, address, stack_overflow };

    StackRecord stack;  // of the crash
    Fault fault = Fault::none;
    std::uint64_t fault_address = 0;  // that the program reached for, if `fault` says so
    // The parent's last question, from 1: where are you? And which one `where` is the answer to.
    std::atomic<std::uint64_t> asked{0}, answered{0};
    StackRecord where;
};

// The parent asks by this signal. Who has no handler for it ignores it.
inline constexpr int kWhereSignal = SIGURG;

// In a worker: a fatal signal fills the record, then ends the process as it would have; and
// kWhereSignal answers the parent's question. Signals that have a handler already are left alone.
// The record must not go before the process does.
void record_crashes(CrashRecord& record);

// In the parent: the frames as addresses of this process, the innermost first; what cannot be found
// here is left out.
std::vector<const void*> code_addresses(const StackRecord& record);
// "it reached for address 0x10...", or that its stack looks overflown; empty: nothing is known.
std::string describe_fault(const CrashRecord& record);

}  // namespace sidestep

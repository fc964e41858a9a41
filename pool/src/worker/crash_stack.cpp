#include "worker/crash_stack.hpp"

#include <dlfcn.h>
#include <execinfo.h>
#include <fmt/format.h>
#include <link.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <string_view>

#include <sidestep/task.hpp>

#include "sys/fork_marker.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr int kFatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGTRAP};
constexpr std::size_t kStackBytes = std::size_t(64) << 10;

CrashRecord* record_of_process = nullptr;
pid_t process_of_record = 0;
ForkGeneration mark_of_record{};

std::uintptr_t program_counter(const void* context) {
    const mcontext_t& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    return static_cast<std::uintptr_t>(machine.gregs[REG_RIP]);
#elif defined(__aarch64__)
    return machine.pc;
#else
    (void)machine;
    return 0;
#endif
}

std::uintptr_t stack_pointer(const void* context) {
    const mcontext_t& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
    return static_cast<std::uintptr_t>(machine.gregs[REG_RSP]);
#elif defined(__aarch64__)
    return machine.sp;
#else
    (void)machine;
    return 0;
#endif
}

// --- in the signal handler: async-signal-safe calls only -----------------------------------------

// Not in a forked copy that has the same number (1, in a pid namespace of its own), nor in one that
// has the same memory (vfork).
bool is_process_of_record() {
    return getpid() == process_of_record &&
           fork_page().generation.load(std::memory_order_relaxed) == mark_of_record;
}

// (backtrace() is safe once it has been called: record_crashes() does. It takes no lock since glibc
// 2.35, whose _dl_find_object, made for signal handlers, it uses.)
void write_stack(StackRecord& record, const void* context) {
    void* addresses[StackRecord::kMostFrames + 8];
    int found = backtrace(addresses, std::size(addresses));
    std::uintptr_t fault = program_counter(context);
    int first = 0;  // the handler's own frames come before that
    while (first < found && reinterpret_cast<std::uintptr_t>(addresses[first]) != fault) ++first;
    if (first == found) first = 0;
    std::uint64_t count = 0;
    for (int i = first; i < found && count < StackRecord::kMostFrames; ++i) {
        auto address = reinterpret_cast<std::uintptr_t>(addresses[i]);
        if (i > first && address > 0) --address;  // the call, not where it returns to
        dl_find_object object;
        if (_dl_find_object(reinterpret_cast<void*>(address), &object) != 0) continue;
        record.frames[count].module = detail::hash_text(object.dlfo_link_map->l_name);
        record.frames[count].offset = address - object.dlfo_link_map->l_addr;
        ++count;
    }
    record.count.store(count, std::memory_order_release);
}

// Memory beside the stack pointer is there, unless the stack has come to its end.
void write_fault(CrashRecord& record, const siginfo_t& info, const void* context) {
    constexpr std::uintptr_t kBeside = 64 << 10;
    const bool has_address = (info.si_signo == SIGSEGV || info.si_signo == SIGBUS) &&
                             info.si_code > 0 && info.si_code != SI_KERNEL;
    if (!has_address) return;
    const auto address = reinterpret_cast<std::uintptr_t>(info.si_addr);
    const std::uintptr_t stack = stack_pointer(context);
    record.fault_address = address;
    record.fault = address - stack + kBeside < 2 * kBeside ? CrashRecord::Fault::stack_overflow
                                                           : CrashRecord::Fault::address;
}

void on_fatal_signal(int signal, siginfo_t* info, void* context) {
    // What a task forks has no record: the memory is not there.
    CrashRecord* record = is_process_of_record() ? record_of_process : nullptr;
    if (record && record->stack.count.load(std::memory_order_relaxed) == 0) {
        write_fault(*record, *info, context);
        write_stack(record->stack, context);
    }
    // SA_RESETHAND: the default is in place. The signal is blocked until this returns, and ends the
    // process then.
    raise(signal);
}

// Tasks run in the main thread. Another one gets the signal if that has blocked it; then there is
// no answer.
void on_question(int, siginfo_t*, void* context) {
    if (!is_process_of_record() || gettid() != process_of_record) return;
    const int saved = errno;
    CrashRecord& record = *record_of_process;
    const std::uint64_t question = record.asked.load(std::memory_order_acquire);
    if (question > record.answered.load(std::memory_order_relaxed)) {
        write_stack(record.where, context);
        record.answered.store(question, std::memory_order_release);
        sys::futex_wake(sys::low_half(record.answered), INT_MAX);
    }
    errno = saved;
}

void handle_unless_handled(int signal, void (*handler)(int, siginfo_t*, void*), unsigned flags) {
    struct sigaction before = {};
    if (sigaction(signal, nullptr, &before) < 0 || before.sa_handler != SIG_DFL) return;
    struct sigaction action = {};
    action.sa_sigaction = handler;
    action.sa_flags = static_cast<int>(flags | SA_SIGINFO | SA_ONSTACK);
    sigemptyset(&action.sa_mask);
    sigaction(signal, &action, nullptr);
}

}  // namespace

// --- set up and read -----------------------------------------------------------------------------

void record_crashes(CrashRecord& record) {
    void* warm_up[1];
    backtrace(warm_up, 1);  // loads what it needs
    record_of_process = &record;
    process_of_record = getpid();
    mark_of_record = ForkMarker().generation();
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) return;
    stack_t stack = {};
    stack.ss_sp = memory;  // so that the overflow of a stack is recorded, too
    stack.ss_size = kStackBytes;
    if (sigaltstack(&stack, nullptr) < 0) return;
    for (int signal : kFatal) handle_unless_handled(signal, on_fatal_signal, SA_RESETHAND);
    handle_unless_handled(kWhereSignal, on_question, SA_RESTART);
}

std::string describe_fault(const CrashRecord& record) {
    if (record.stack.count.load(std::memory_order_acquire) == 0) return {};
    switch (record.fault) {
        case CrashRecord::Fault::address:
            return fmt::format("it reached for address {:#x}{}", record.fault_address,
                               record.fault_address < 4096 ? ", by a null pointer" : "");
        case CrashRecord::Fault::stack_overflow:
            return fmt::format(
                "it looks like a stack overflow (at address {:#x}): recurse less deep, put large "
                "arrays on the heap, or raise `ulimit -s`",
                record.fault_address);
        default:
            return {};
    }
}

std::vector<const void*> code_addresses(const StackRecord& record) {
    struct Search {
        StackRecord::Frame frame;
        const void* address = nullptr;
    };
    // I7: an offset that does not lie in the module is none.
    auto visit = [](dl_phdr_info* info, std::size_t, void* data) {
        auto& search = *static_cast<Search*>(data);
        if (detail::hash_text(info->dlpi_name) != search.frame.module) return 0;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
            const ElfW(Phdr)& segment = info->dlpi_phdr[i];
            if (segment.p_type == PT_LOAD &&
                search.frame.offset - segment.p_vaddr < segment.p_memsz)
                search.address =
                    reinterpret_cast<const void*>(info->dlpi_addr + search.frame.offset);
        }
        return 1;
    };
    std::vector<const void*> addresses;
    std::size_t count = std::min<std::size_t>(record.count.load(std::memory_order_acquire),
                                              StackRecord::kMostFrames);
    for (std::size_t i = 0; i < count; ++i) {
        Search search{record.frames[i]};
        dl_iterate_phdr(visit, &search);
        if (search.address) addresses.push_back(search.address);
    }
    return addresses;
}

}  // namespace sidestep

#include "faults.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <new>

namespace test {
namespace {

struct Plan {
    std::atomic<Call> call{Call::none};
    std::atomic<int> maker{0}, pid{0}, error{0}, skip{0}, times{0}, seen{0};
};

// Of this process and those that it forks.
Plan* make_plan() {
    void* page =
        ::mmap(nullptr, sizeof(Plan), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? nullptr : new (page) Plan;
}
Plan* plan = nullptr;
[[gnu::constructor]] void prepare() { plan = make_plan(); }

// The error that this call is to have; 0: none.
int planned_error(Call call) {
    if (!plan || plan->call != call) return 0;
    if (plan->pid == Fault::kForked ? plan->maker == ::getpid() : plan->pid != ::getpid()) return 0;
    int number = plan->seen++;
    if (number < plan->skip || number - plan->skip >= plan->times) return 0;
    if (plan->error == Fault::kKill) ::raise(SIGKILL);
    return plan->error;
}

}  // namespace

void (*after_poll)() = nullptr;

Fault::Fault(Call call, int error, int skip, int times, int pid) {
    plan->maker = ::getpid();
    plan->pid = pid;
    plan->error = error;
    plan->skip = skip;
    plan->times = times;
    plan->seen = 0;
    plan->call = call;
}
Fault::~Fault() { plan->call = Call::none; }
bool Fault::happened() const { return plan->seen > plan->skip; }

}  // namespace test

extern "C" {

ssize_t send(int fd, const void* bytes, size_t size, int flags) {
    if (int error = test::planned_error(test::Call::send)) return errno = error, -1;
    return ::syscall(SYS_sendto, fd, bytes, size, flags, nullptr, 0);
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    if (int error = test::planned_error(test::Call::sendmsg)) return errno = error, -1;
    return ::syscall(SYS_sendmsg, fd, message, flags);
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
    if (int error = test::planned_error(test::Call::recvmsg)) return errno = error, -1;
    return ::syscall(SYS_recvmsg, fd, message, flags);
}

int poll(pollfd* entries, nfds_t count, int timeout) {
    if (int error = test::planned_error(test::Call::poll)) {
        if (test::after_poll != nullptr) test::after_poll();
        return errno = error, -1;
    }
    timespec time = {timeout / 1000, timeout % 1000 * 1000000L};
    auto ready = static_cast<int>(
        ::syscall(SYS_ppoll, entries, count, timeout < 0 ? nullptr : &time, nullptr, 0));
    if (test::after_poll != nullptr) test::after_poll();
    return ready;
}

}  // extern "C"

void* operator new(std::size_t size) {
    if (test::planned_error(test::Call::allocation) != 0) throw std::bad_alloc();
    if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
    throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
    if (test::planned_error(test::Call::allocation) != 0) return nullptr;
    return std::malloc(size == 0 ? 1 : size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

// Helpers for tests with several processes: forked children, memory they share with the test, and
// handles that travel in messages.
#pragma once

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include <sidestep/archive.hpp>

#include "support.hpp"
#include "sys/sys.hpp"

namespace test {

// Runs f in a forked child; its exit code is what f returns (0 for void), 99 if it throws.
class Child {
  public:
    static constexpr int kThrew = 99;

    template <class F>
    explicit Child(F&& f) {
        pid_ = ::fork();
        if (pid_ == 0) ::_exit(run(f));
    }
    Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
    Child& operator=(Child&&) = delete;
    ~Child() {
        if (pid_ <= 0) return;
        ::kill(pid_, SIGKILL);
        (void)wait();
    }
    int pid() const { return pid_; }
    void signal(int number) const { ::kill(pid_, number); }
    // The exit code, or minus the signal.
    int wait() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }
    int kill() {
        signal(SIGKILL);
        return wait();
    }

  private:
    template <class F>
    static int run(F& f) {
        try {
            if constexpr (std::is_void_v<std::invoke_result_t<F&>>)
                return f(), 0;
            else
                return static_cast<int>(f());
        } catch (...) {
            return kThrew;
        }
    }
    pid_t pid_ = -1;
};

// A T (trivially copyable, or of atomics) that forked children share.
template <class T>
class SharedPage {
  public:
    SharedPage() {
        void* page =
            ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (page == MAP_FAILED) throw std::bad_alloc();
        value_ = new (page) T{};
    }
    SharedPage(const SharedPage&) = delete;
    SharedPage& operator=(const SharedPage&) = delete;
    ~SharedPage() { ::munmap(const_cast<std::remove_volatile_t<T>*>(value_), sizeof(T)); }
    T* operator->() const { return value_; }
    T& operator*() const { return *value_; }

  private:
    T* value_;
};

// Descriptors that were put beside the bytes.
class FdCollector final : public sidestep::detail::FdSink {
  public:
    std::uint64_t put(int fd) override {
        for (std::size_t i = 0; i < fds.size(); ++i)
            if (fds[i] == fd) return i;
        fds.push_back(fd);
        return fds.size() - 1;
    }
    std::vector<int> fds;
};
class FdDealer final : public sidestep::detail::FdSource {
  public:
    explicit FdDealer(std::vector<sidestep::Fd> fds) : fds_(std::move(fds)) {}
    int get(std::uint64_t number) override {
        return fds_.at(static_cast<std::size_t>(number)).duplicate().release();
    }

  private:
    std::vector<sidestep::Fd> fds_;
};

// A channel that carries values with handles, over a socket pair.
class Channel {
  public:
    Channel() : ends_(sidestep::sys::make_socketpair()) {}
    template <class... T>
    void send(const T&... values) const {
        sidestep::detail::HeapBuffer buffer;
        FdCollector fds;
        sidestep::OutputArchive archive(buffer, &fds);
        archive(values...);
        sidestep::sys::send_message(ends_.first.get(), buffer.bytes(), fds.fds);
    }
    template <class... T>
    void receive(T&... values) const {
        std::vector<std::byte> bytes(1 << 16);
        sidestep::sys::Message message = sidestep::sys::receive_message(ends_.second.get(), bytes);
        FdDealer fds(std::move(message.fds));
        sidestep::InputArchive archive({bytes.data(), message.size}, &fds);
        archive.allow_functions();
        archive(values...);
        archive.expect_end();
    }
    template <class T>
    T receive() const {
        T value = sidestep::detail::make_blank<T>();
        receive(value);
        return value;
    }

    int socket() const { return ends_.first.get(); }

  private:
    sidestep::sys::SocketPair ends_;
};
// A handle as it is after a journey as an argument.
template <class T>
T travel(const T& handle) {
    Channel channel;
    channel.send(handle);
    return channel.receive<T>();
}

// Keeps the calling thread, and the children it forks, on one CPU: a debugger and its victim hand
// over to each other ten times faster there.
class OneCpu {
  public:
    OneCpu() {
        ::sched_getaffinity(0, sizeof before_, &before_);
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(static_cast<unsigned>(::sched_getcpu()), &one);
        ::sched_setaffinity(0, sizeof one, &one);
    }
    OneCpu(const OneCpu&) = delete;
    OneCpu& operator=(const OneCpu&) = delete;
    ~OneCpu() { ::sched_setaffinity(0, sizeof before_, &before_); }

  private:
    cpu_set_t before_;
};

// Kills a child after every single instruction of `operation`: for k = 0, 1, 2... a fresh child
// runs `prepare`, then k instructions of `operation`, and is killed; then `check(k)` runs here.
// Ends when the operation gets through. Returns how many instructions it has.
inline unsigned kill_at_every_instruction(const std::function<void()>& prepare,
                                          const std::function<void()>& operation,
                                          const std::function<void(unsigned)>& check) {
#ifdef TEST_SANITIZED
    constexpr unsigned kStride = 397;  // instrumented code has many times the instructions
#else
    constexpr unsigned kStride = 1;
#endif
    struct Progress {
        volatile int stage;
    };
    SharedPage<Progress> progress;
    for (unsigned k = 0;; k += kStride) {
        progress->stage = 0;
        auto pinned = std::make_unique<OneCpu>();
        Child child([&] {
            prepare();
            ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
            ::raise(SIGSTOP);
            progress->stage = 1;
            operation();
            progress->stage = 2;
            ::raise(SIGSTOP);
        });
        int status = 0;
        ::waitpid(child.pid(), &status, 0);
        unsigned steps = 0;
        while (WIFSTOPPED(status) && progress->stage < 2 && steps < k) {
            if (progress->stage == 1) ++steps;
            if (::ptrace(PTRACE_SINGLESTEP, child.pid(), nullptr, nullptr) < 0) break;
            ::waitpid(child.pid(), &status, 0);
        }
        bool done = progress->stage == 2 || !WIFSTOPPED(status);
        if (WIFSTOPPED(status)) child.kill();
        pinned.reset();
        check(k);
        if (done) return k;
    }
}

}  // namespace test

// Makes calls of this process fail on purpose: system calls by their names in the C library, and
// allocations by operator new. A program that links faults.cpp has its own of all these.
//
// Fork: forked processes share what is to fail, so that a call of one of them can be chosen.
#pragma once

#include <unistd.h>

namespace test {

enum class Call { none, send, sendmsg, recvmsg, poll, allocation };

// While it lives, `times` calls in the process `pid` fail with `error`, after `skip` that do not.
// One at a time.
class Fault {
  public:
    static constexpr int kEver = 1 << 30;
    static constexpr int kKill = -1;   // as an error: the process is killed instead
    static constexpr int kForked = 0;  // as a pid: all that are forked from this process

    explicit Fault(Call call, int error, int skip = 0, int times = 1, int pid = ::getpid());
    ~Fault();
    Fault(const Fault&) = delete;
    Fault& operator=(const Fault&) = delete;
    bool happened() const;
};

// Called behind each poll(2), as whatever another process does in that moment; null: nothing.
extern void (*after_poll)();

}  // namespace test

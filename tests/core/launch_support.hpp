// Children for the tests of launching: what they report, and how they are waited for.
#pragma once

#include <memory>
#include <string>

#include "start/launch.hpp"
#include "sys/sys.hpp"

namespace test {

// What a child sees of itself; sent over its control socket.
struct ChildReport {
    int pid = 0, parent = 0, group = 0;
    int counter = 0;            // this process' copy of launch_counter
    bool boot_variable = true;  // SIDESTEP_BOOT_FD is set
    bool null_control = true;   // the control socket is one of 0, 1, 2
};
inline int launch_counter = 0;

// Who a child is; sent over its control socket.
struct UserReport {
    unsigned real = 0, effective = 0, saved = 0, group = 0;
    int groups = 0;
    unsigned first_group = 0;
};

// The places where the children go on. All end with an exit or a signal.
void report_main(sidestep::Fd control);  // reports, then exits with the code it is sent
void hold_main(sidestep::Fd control);    // keeps the descriptor that it is sent, until it is killed
void signal_main(sidestep::Fd control);  // raises the signal it is sent
void throw_main(sidestep::Fd control);   // throws a std::runtime_error
void print_main(sidestep::Fd control);   // writes to cout and stdout, unflushed, and leaves
void user_main(sidestep::Fd control);    // tells who it is, and leaves
void stranger_main(sidestep::Fd control);  // no child is to begin here

void send_number(const sidestep::Launched& child, int number, const sidestep::Fd* fd = nullptr);
ChildReport receive_report(const sidestep::Launched& child);
// Blocks; the child is reaped.
sidestep::ExitStatus wait_for(const sidestep::Launched& child);
// True if everybody who held the pipe's other end is gone, before the patience is.
bool reaches_end(const sidestep::Fd& read_end);

std::unique_ptr<sidestep::Launcher> launcher(sidestep::StartMethod method);

}  // namespace test

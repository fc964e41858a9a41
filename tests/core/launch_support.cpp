#include "launch_support.hpp"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <stdexcept>

#include "support.hpp"

namespace test {

using namespace sidestep;

namespace {

int receive_number(const Fd& control, std::vector<Fd>* fds = nullptr) {
    int number = 0;
    sys::Message message =
        sys::receive_message(control.get(), std::as_writable_bytes(std::span(&number, 1)));
    if (message.closed) leave_process(90);
    if (fds) *fds = std::move(message.fds);
    return number;
}

const BootEntry entries [[gnu::init_priority(200)]][] = {
    BootEntry(&report_main), BootEntry(&hold_main),  BootEntry(&signal_main),
    BootEntry(&throw_main),  BootEntry(&print_main), BootEntry(&user_main)};

}  // namespace

void report_main(Fd control) {
    ChildReport report;
    report.pid = getpid();
    report.parent = getppid();
    report.group = getpgrp();
    report.counter = launch_counter;
    report.boot_variable = std::getenv(kBootVariable) != nullptr;
    report.null_control = control.get() <= STDERR_FILENO;
    sys::send_message(control.get(), std::as_bytes(std::span(&report, 1)), {});
    leave_process(receive_number(control));
}

void hold_main(Fd control) {
    std::vector<Fd> held;
    (void)receive_number(control, &held);
    std::byte answer{};
    sys::send_message(control.get(), {&answer, 1}, {});
    for (;;) pause();
}

void signal_main(Fd control) {
    raise(receive_number(control));
    leave_process(91);
}

void throw_main(Fd) { throw std::runtime_error("the reason it gave"); }

void print_main(Fd) {
    std::printf("child-stdio ");
    std::cout << "child-stream ";
    leave_process(0);
}

void user_main(Fd control) {
    UserReport user;
    gid_t group = 0;
    getresuid(&user.real, &user.effective, &user.saved);
    user.group = getgid();
    user.groups = getgroups(1, &group);
    user.first_group = group;
    sys::send_message(control.get(), std::as_bytes(std::span(&user, 1)), {});
    leave_process(0);
}

void stranger_main(Fd) { leave_process(0); }

void send_number(const Launched& child, int number, const Fd* fd) {
    int raw = fd ? fd->get() : -1;
    sys::send_message(child.control.get(), std::as_bytes(std::span(&number, 1)),
                      {&raw, fd ? std::size_t(1) : 0});
}

ChildReport receive_report(const Launched& child) {
    ChildReport report;
    sys::Message message =
        sys::receive_message(child.control.get(), std::as_writable_bytes(std::span(&report, 1)));
    return message.size == sizeof report ? report : ChildReport();
}

ExitStatus wait_for(const Launched& child) { return sys::wait_pidfd(child.pidfd.get(), true); }

bool reaches_end(const Fd& read_end) {
    pollfd entry = {read_end.get(), 0, 0};
    sys::Deadline deadline = sys::Clock::now() + kPatience;
    int n;
    do n = poll(&entry, 1, sys::poll_timeout(deadline));
    while (n < 0 && errno == EINTR);
    return n == 1 && (entry.revents & POLLHUP) != 0;
}

std::unique_ptr<Launcher> launcher(StartMethod method) {
    return make_launcher(method, "a test's child", 0);
}

}  // namespace test

// What only a whole program can show: its end, its death, its globals. The first argument is what
// to do; children of it are spawned without arguments.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sidestep/connection.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/sync.hpp>

namespace mp = sidestep;

namespace {

mp::Semaphore global_semaphore;  // made in each spawned child again, and no trouble

void nothing() {}
void say_ok() { std::puts("ok"); }
void say_123() { std::puts("123"); }
[[noreturn]] void wait_for_signal() {
    for (;;) ::pause();
}
[[noreturn]] void sleep_as_daemon(mp::Event ready) {
    mp::at_exit([] { std::puts("a daemon's hook"); });  // SIGTERM gives it no time
    ready.set();
    wait_for_signal();
}
void stubborn(mp::Event ready) {
    ::signal(SIGTERM, SIG_IGN);
    ready.set();
    wait_for_signal();
}
void finish_later(mp::Event go) {
    go.wait();
    std::puts("the child is done");
}
void tell_pid_and_wait(int daemon) {
    std::printf("%s %d\n", daemon ? "daemon" : "plain", ::getpid());
    std::fflush(stdout);
    wait_for_signal();
}

// Daemonic children are ended at the end of main, others waited for; hooks run around that.
int end_of_main() {
    mp::Event daemon_ready, stubborn_ready, go;
    mp::at_exit([go]() mutable { go.set(); });  // registered before, so run after the first
    mp::at_exit([] { std::puts("first hook"); });
    mp::at_exit([] { std::puts("last hook"); }, -1);
    // Never deleted but for one; static, since LeakSanitizer looks there.
    static auto* daemon = new mp::Process({.daemon = true}, sleep_as_daemon, daemon_ready);
    daemon->start();
    static auto* deaf = new mp::Process({.daemon = true}, stubborn, stubborn_ready);
    deaf->start();
    static auto* plain = new mp::Process(finish_later, go);
    plain->start();
    daemon_ready.wait();
    stubborn_ready.wait();
    daemon->detach();
    delete daemon;  // detached: not ended here
    return 0;
}

// Prints the pids of a daemonic and a plain child, and waits to be killed.
int with_children(mp::StartMethod method) {
    mp::Process daemon({.daemon = true, .start_method = method}, tell_pid_and_wait, 1);
    daemon.start();
    mp::Process plain({.start_method = method}, tell_pid_and_wait, 0);
    plain.start();
    mp::Process brother({.daemon = true, .start_method = method}, wait_for_signal);
    brother.start();  // holds nothing that keeps the first daemon alive
    wait_for_signal();
}

int named_resource() {
    mp::Process p({.start_method = mp::StartMethod::spawn}, nothing);
    p.start();
    p.join();
    return *p.exitcode();
}

bool preloaded = false;
void preload() {
    preloaded = true;
    global_semaphore = mp::Semaphore(0);
}
void say_preloaded() { std::puts(preloaded ? "ok" : "not preloaded"); }

int preload_resources() {
    mp::set_forkserver_preload(preload);
    mp::Process p({.start_method = mp::StartMethod::forkserver}, say_preloaded);
    p.start();
    p.join();
    return *p.exitcode();
}

int bomb(mp::StartMethod method) {
    mp::Process p({.start_method = method}, say_123);
    p.start();
    p.join();
    return *p.exitcode();
}

int run_mode(const char* mode, const char* argument) {
    if (std::strcmp(mode, "end-of-main") == 0) return end_of_main();
    if (std::strcmp(mode, "children") == 0) return with_children(mp::start_method_named(argument));
    if (std::strcmp(mode, "named-resource") == 0) return named_resource();
    if (std::strcmp(mode, "preload") == 0) return preload_resources();
    if (std::strcmp(mode, "say-ok") == 0) return say_ok(), 0;
    return 64;
}

}  // namespace

int main(int argc, char** argv) {
    // As it must not be: a process is started before init().
    if (argc > 2 && std::strcmp(argv[1], "bomb") == 0) return bomb(mp::start_method_named(argv[2]));
    mp::init();
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    return argc > 1 ? run_mode(argv[1], argc > 2 ? argv[2] : "") : 65;
}

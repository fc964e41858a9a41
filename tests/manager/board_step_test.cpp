// An actor's process, killed at each step of what it writes for those that come after it: a child
// is single-stepped through one operation of the board, and SIGKILLed after one instruction or
// another of it.
#include <catch2/catch.hpp>

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actor_board.hpp"

namespace board_step_test {

namespace mp = sidestep;
using mp::detail::ActorBoard;
using mp::detail::CallName;

namespace {

#ifdef TEST_SANITIZED
constexpr int kMostKills = 30;
#else
constexpr int kMostKills = 60;
#endif
constexpr int kAll = 50'000'000;

using Operation = std::function<void(ActorBoard&)>;

// The signal by which a child has stopped; 0: it has ended.
int stop_of(pid_t child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
}

struct Killed {
    bool traced = false, completed = false;
    int steps = 0;
};

// A child stops before the operation and after it; in between it is killed after so many steps.
Killed kill_after(ActorBoard& board, const Operation& operation, int steps) {
    Killed killed;
    const pid_t child = ::fork();
    if (child == 0) {
        if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(77);
        ::raise(SIGSTOP);
        operation(board);
        ::raise(SIGSTOP);
        ::_exit(1);
    }
    killed.traced = stop_of(child) == SIGSTOP;
    if (!killed.traced) return killed;
    ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_EXITKILL);
    while (killed.steps < steps && !killed.completed) {
        if (::ptrace(PTRACE_SINGLESTEP, child, nullptr, nullptr) != 0) break;
        const int signal = stop_of(child);
        if (signal == 0) return killed;
        killed.completed = signal == SIGSTOP;
        ++killed.steps;
    }
    ::kill(child, SIGKILL);
    while (stop_of(child) != 0) {
    }
    return killed;
}

struct Trial {
    std::function<void(ActorBoard&)> prepare;
    Operation operation;
    std::function<void(ActorBoard&, bool completed)> check;
};

// Returns how often it was killed within the operation.
int sweep(const Trial& trial) {
    auto run = [&](int steps) {
        ActorBoard board(true);
        trial.prepare(board);
        const Killed killed = kill_after(board, trial.operation, steps);
        if (killed.traced) trial.check(board, killed.completed);
        return killed;
    };
    const Killed whole = run(kAll);
    if (!whole.traced) {
        WARN("ptrace is not permitted here: nothing was tested");
        return 0;
    }
    REQUIRE(whole.completed);
    int kills = 0;
    const int stride = std::max(1, whole.steps / kMostKills);
    for (int steps = 0; steps < whole.steps; steps += stride) kills += !run(steps).completed;
    std::printf("%d kills in an operation of %d instructions\n", kills, whole.steps);
    CHECK(kills >= std::min(whole.steps, kMostKills) / 2);
    return kills;
}

std::vector<std::byte> state(const std::string& text) {
    auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    return {bytes.begin(), bytes.end()};
}

// The other call is there in any case; whether that of the trial is.
bool has_begun(ActorBoard& board) {
    bool it = false, other = false;
    for (const auto& begun : board.take_begun()) {
        CHECK(begun.call.session == 7);
        CHECK_FALSE(begun.overdue);
        if (begun.call.request == 2)
            it = true;
        else
            other = begun.call.request == 1;
    }
    CHECK(other);
    return it;
}

}  // namespace

TEST_CASE("an actor killed at any step of a call's begin: it has begun, or not",
          "[manager][actor][board][step]") {
    sweep({[](ActorBoard& board) {
               (void)board.begin({7, 1});
           },
           [](ActorBoard& board) {
               (void)board.begin({7, 2});
           },
           [](ActorBoard& board, bool completed) {
               const bool begun = has_begun(board);
               if (completed) CHECK(begun);
           }});
}

TEST_CASE("an actor killed at any step of a call's end: it has begun, or is over",
          "[manager][actor][board][step]") {
    ActorBoard::Place place = 0;
    sweep({[&](ActorBoard& board) {
               (void)board.begin({7, 1});
               place = board.begin({7, 2});
           },
           [&](ActorBoard& board) { board.end(place); },
           [](ActorBoard& board, bool completed) {
               const bool begun = has_begun(board);
               if (completed) CHECK_FALSE(begun);
           }});
}

TEST_CASE("an actor killed at any step of a checkpoint leaves the former one, or this one",
          "[manager][actor][board][step]") {
    const std::string former(50, 'f'), last(90, 'l');
    sweep({[&](ActorBoard& board) {
               board.save(state("the first"));
               board.save(state(former));
           },
           [&](ActorBoard& board) { board.save(state(last)); },
           [&](ActorBoard& board, bool completed) {
               const auto found = board.last_state();
               REQUIRE(found);
               if (completed)
                   CHECK(*found == state(last));
               else
                   CHECK((*found == state(last) || *found == state(former)));
           }});
}

}  // namespace board_step_test

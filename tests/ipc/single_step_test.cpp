// Each step of the ring's protocol, killed: a child is single-stepped through one operation and
// SIGKILLed after every instruction of it. What the survivor finds must account for every task.
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <string>

#include <catch2/catch.hpp>

#include "memory/segment.hpp"
#include "queue/task_ring.hpp"
#include "support.hpp"

namespace single_step_test {

using namespace sidestep;

namespace {

constexpr std::uint32_t kCapacity = 4;
#ifdef TEST_SANITIZED
constexpr int kMostKills = 60;
#else
constexpr int kMostKills = 300;
#endif

enum class Phase : int { before, within, after };

// What parent and child share: the ring, a bell, and where the child is.
struct World {
    alignas(kCacheLine) std::atomic<Phase> phase{Phase::before};
    alignas(kCacheLine) EventCount bell;
    alignas(kCacheLine) std::uint64_t got = 0;  // what the operation returned
    alignas(kCacheLine) RingHeader header;
    TaskSlot slots[kCapacity];  // where RingHeader::slots() looks for them
};
static_assert(sizeof(World) == offsetof(World, header) + sizeof(RingHeader) + sizeof(World::slots));

// One operation, made ready and killed at one instruction after the other.
struct Trial {
    Trial()
        : segment(Segment::create("sidestep-test", sizeof(World))),
          world(new (segment.data()) World),
          parent(&world->header, kCapacity),
          worker(&world->header, kCapacity) {}

    void publish(std::uint64_t serial) {
        TaskSlot& slot = parent.next();
        slot.serial = serial;
        slot.size = TaskSlot::kInline;
        std::memset(slot.inline_bytes, static_cast<int>(serial), TaskSlot::kInline);
        parent.publish();
    }
    SlotState state(std::uint64_t index) { return parent.slot(index).state.load(); }

    Segment segment;
    World* world;
    RingParent parent;
    RingWorker worker;  // the child's copy of it works
};

void write_reply(TaskSlot& slot) {
    std::memset(slot.inline_bytes, static_cast<int>(100 + slot.serial), TaskSlot::kInline);
    slot.reply = ReplyKind::value;
    slot.size = 64;
}
bool holds_only(const TaskSlot& slot, std::uint64_t value) {
    return std::all_of(std::begin(slot.inline_bytes), std::end(slot.inline_bytes),
                       [&](std::byte b) { return b == std::byte(value); });
}

using Operation = std::function<void(Trial&)>;

[[noreturn]] void child_main(Trial& trial, const Operation& operation) {
    if (ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) _exit(77);
    raise(SIGSTOP);
    trial.world->phase.store(Phase::within);
    operation(trial);
    trial.world->phase.store(Phase::after);
    for (;;) pause();
}

// Waits until the child stops. False: it has ended.
bool wait_for_stop(pid_t pid) {
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFSTOPPED(status);
}

struct Killed {
    bool traced = true;
    bool completed = false;  // the operation was through
    int steps = 0;           // instructions of it that were executed
};

// Lets a child execute `instructions` instructions of the operation, and kills it.
Killed kill_after(Trial& trial, const Operation& operation, int instructions) {
    Killed result;
    pid_t pid = fork();
    if (pid == 0) child_main(trial, operation);
    auto step = [&] {
        return ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) == 0 && wait_for_stop(pid);
    };
    auto phase = [&] { return trial.world->phase.load(); };
    result.traced = wait_for_stop(pid);
    if (!result.traced) return result;
    ptrace(PTRACE_SETOPTIONS, pid, nullptr, PTRACE_O_EXITKILL);
    while (phase() == Phase::before)
        if (!step()) return result;
    while (phase() == Phase::within && result.steps < instructions && step()) ++result.steps;
    result.completed = phase() == Phase::after;
    kill(pid, SIGKILL);
    while (wait_for_stop(pid)) {
    }
    return result;
}

// Kills at every instruction, but at no more than about 300 of them (an operation that is not
// optimized has more); under a sanitizer, which makes thousands of them, at 60. `check` is the
// survivor.
int sweep(const std::function<void(Trial&)>& prepare, const Operation& operation,
          const std::function<void(Trial&, bool completed)>& check) {
    int total = 0;
    {
        Trial trial;
        prepare(trial);
        Killed whole = kill_after(trial, operation, 10'000'000);
        if (!whole.traced) {
            WARN("ptrace is not permitted here: nothing was tested");
            return 0;
        }
        REQUIRE(whole.completed);
        total = whole.steps;
        check(trial, true);
    }
    int stride = std::max(1, total / kMostKills);
    for (int k = 0; k <= total; k += stride) {
        Trial trial;
        prepare(trial);
        Killed killed = kill_after(trial, operation, k);
        CAPTURE(k, total);
        REQUIRE(killed.steps == k);
        check(trial, killed.completed);
    }
    return total;
}

struct Census {
    int done = 0, taken = 0, not_begun = 0;
};

// As the supervisor does: DONE first, then what was taken, then the rest. Each task is exactly one
// of these, and in this order (R3).
Census take_census(Trial& trial, std::uint64_t first_serial, std::uint64_t tasks) {
    Census census;
    RingParent& ring = trial.parent;
    CHECK(ring.in_flight() == tasks);
    std::uint64_t serial = first_serial;
    while (TaskSlot* slot = ring.front_done()) {
        CHECK(slot->serial == serial++);
        CHECK(slot->reply == ReplyKind::value);
        CHECK(holds_only(*slot, 100 + slot->serial));  // the whole reply, or none
        ++census.done;
        ring.release_front();
    }
    for (std::uint64_t i = ring.consumed(); i < ring.published(); ++i) {
        TaskSlot& slot = ring.slot(i);
        CHECK(slot.serial == serial++);
        SlotState state = slot.state.load();
        bool not_begun = state == SlotState::ready;
        CHECK((not_begun || (state == SlotState::taken && i == ring.consumed())));
        if (not_begun) CHECK(holds_only(slot, slot.serial));  // so it can be given to another
        ++(not_begun ? census.not_begun : census.taken);
    }
    CHECK(serial == first_serial + tasks);
    CHECK(census.taken <= 1);
    return census;
}

void three_ready(Trial& trial) {
    for (std::uint64_t serial : {1u, 2u, 3u}) trial.publish(serial);
}

// The same with a lap behind them, so that the slots are old ones.
void three_ready_second_lap(Trial& trial) {
    for (std::uint64_t serial : {9u, 9u, 9u}) trial.publish(serial);
    while (TaskSlot* slot = trial.worker.claim()) {
        write_reply(*slot);
        (void)trial.worker.complete(*slot);
    }
    while (trial.parent.front_done()) trial.parent.release_front();
    three_ready(trial);
}

}  // namespace

TEST_CASE("killed at any instruction of claim(): the task is ready or taken",
          "[ipc][single_step]") {
    int seen_ready = 0, seen_taken = 0;
    for (auto prepare : {&three_ready, &three_ready_second_lap}) {
        sweep(
            prepare, [](Trial& t) { t.world->got = t.worker.claim()->serial; },
            [&](Trial& trial, bool completed) {
                Census census = take_census(trial, 1, 3);
                CHECK(census.done == 0);
                CHECK(census.not_begun + census.taken == 3);
                if (completed) CHECK((census.taken == 1 && trial.world->got == 1));
                ++(census.taken ? seen_taken : seen_ready);
            });
    }
    CHECK((seen_ready > 0) == (seen_taken > 0));  // neither where ptrace is refused
}

TEST_CASE("killed at any instruction of the reply and complete(): whole or not there",
          "[ipc][single_step]") {
    auto prepare = [](Trial& trial) {
        three_ready(trial);
        REQUIRE(trial.worker.claim());
    };
    int seen_taken = 0, seen_done = 0;
    auto operation = [](Trial& trial) {
        TaskSlot& slot = trial.world->slots[0];
        write_reply(slot);
        (void)trial.worker.complete(slot);
    };
    sweep(prepare, operation, [&](Trial& trial, bool completed) {
        Census census = take_census(trial, 1, 3);
        CHECK(census.done + census.taken == 1);
        CHECK(census.not_begun == 2);
        if (completed) CHECK(census.done == 1);
        ++(census.done ? seen_done : seen_taken);
    });
    CHECK((seen_taken > 0) == (seen_done > 0));
}

TEST_CASE("killed at any instruction between two tasks: every task is accounted for",
          "[ipc][single_step]") {
    auto operation = [](Trial& trial) {
        for (int i = 0; i < 2; ++i) {
            TaskSlot* slot = trial.worker.claim();
            write_reply(*slot);
            (void)trial.worker.complete(*slot);
        }
    };
    sweep(&three_ready_second_lap, operation, [&](Trial& trial, bool completed) {
        Census census = take_census(trial, 1, 3);
        CHECK(census.done + census.taken + census.not_begun == 3);
        CHECK(census.not_begun >= 1);
        if (completed) CHECK(census.done == 2);
    });
}

TEST_CASE("killed at any instruction of take_freed(): a block is queued or taken",
          "[ipc][single_step]") {
    auto prepare = [](Trial& trial) {
        for (std::uint64_t i = 0; i < RingHeader::kFreeEntries - 1; ++i) {  // near the wrap
            REQUIRE(trial.parent.give_back(1));
            REQUIRE(trial.worker.take_freed() == 1);
        }
        for (std::uint64_t block : {256u, 512u, 768u}) REQUIRE(trial.parent.give_back(block));
    };
    sweep(
        prepare, [](Trial& t) { t.world->got = t.worker.take_freed(); },
        [&](Trial& trial, bool completed) {
            RingHeader& header = trial.world->header;
            std::uint64_t left = header.freed.load() - header.reused.load();
            CHECK((left == 2 || left == 3));
            if (completed) CHECK((left == 2 && trial.world->got == 256));
            std::uint64_t at = header.reused.load();
            for (std::uint64_t expected : {256u, 512u, 768u}) {
                if (expected == 256 && left == 2) continue;
                CHECK(header.free_blocks[at++ % RingHeader::kFreeEntries].block == expected);
            }
            CHECK(at == header.freed.load());
            CHECK(trial.parent.give_back(1024));
        });
}

TEST_CASE("killed at any instruction on the way to sleep: the next notifier finds its way",
          "[ipc][single_step]") {
    auto operation = [](Trial& trial) {
        EventCount& bell = trial.worker.doorbell();
        EventCount::Key key = bell.prepare(0);
        if (trial.worker.has_work()) trial.world->got = 1 + key;
        bell.cancel(0);
    };
    int seen_bit = 0;
    sweep([](Trial&) {}, operation,
          [&](Trial& trial, bool completed) {
              if (completed) CHECK_FALSE(trial.parent.sleeping());
              seen_bit += trial.parent.sleeping();
              EventCount& bell = trial.worker.doorbell();
              EventCount::Key before = bell.prepare(7);
              trial.publish(5);
              trial.parent.wake();  // whoever sleeps wakes, whatever bits the dead left
              CHECK_FALSE(trial.parent.sleeping());
              CHECK(bell.prepare(7) != before);
              bell.cancel(7);
              CHECK_FALSE(trial.parent.sleeping());
              CHECK(take_census(trial, 5, 1).not_begun == 1);
          });
    INFO("the bit of the dead was seen " << seen_bit << " times");
    SUCCEED();
}

TEST_CASE("killed at any instruction of notify_all(): the sleeper is woken by it or by the death",
          "[ipc][single_step]") {
    int bit_kept = 0, between = 0, key_changed = 0;
    EventCount::Key slept_on = 0;
    auto prepare = [&](Trial& trial) { slept_on = trial.world->bell.prepare(3); };
    sweep(
        prepare, [](Trial& t) { t.world->bell.notify_all(); },
        [&](Trial& trial, bool completed) {
            EventCount& bell = trial.world->bell;
            bool bit = bell.has_sleepers();
            bool changed = bell.prepare(3) != slept_on;
            CHECK_FALSE((bit && changed));
            if (completed) CHECK(changed);
            ++(changed ? key_changed : bit ? bit_kept : between);
            // In each case a sleeper that the death epoch wakes goes on, and so does the bell.
            DeathEpoch epoch;
            std::uint32_t alive = epoch.value.load();
            epoch.announce();
            bell.wait(bell.prepare(3), epoch, alive, {});
            EventCount::Key key = bell.prepare(3);
            bell.notify_all();
            CHECK(bell.prepare(3) != key);
            bell.cancel(3);
        });
    CHECK((bit_kept > 0) == (key_changed > 0));
    INFO("between the two: " << between);
    SUCCEED();
}

}  // namespace single_step_test

#include "sync/event_count.hpp"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <random>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "memory/segment.hpp"
#include "support.hpp"

namespace event_count_test {

using sidestep::DeathEpoch;
using sidestep::EventCount;
using sidestep::Segment;
namespace sys = sidestep::sys;
using namespace std::chrono_literals;

namespace {

sys::Deadline soon() { return sys::Clock::now() + 1ms; }
sys::Deadline late() { return sys::Clock::now() + test::kPatience; }

// One direction of a conversation: how much was sent, and how much of it was announced.
struct Stream {
    EventCount event;
    std::atomic<std::uint64_t> sent{0};
    std::atomic<std::uint64_t> announced{0};  // the notify after it has returned

    void send() {
        std::uint64_t n = sent.load(std::memory_order_relaxed) + 1;
        sent.store(n, std::memory_order_relaxed);  // the event count's fences must do
        event.notify_all();
        announced.store(n);
    }
    // Sleeps until more than `seen` was sent. Returns how often it slept through an announcement.
    int wait_beyond(std::uint64_t seen, unsigned participant) {
        int lost = 0;
        while (sent.load(std::memory_order_acquire) <= seen) {
            EventCount::Key key = event.prepare(participant);
            if (sent.load(std::memory_order_acquire) > seen) break;
            event.wait(key, {});
            // Announced, although our bit was set before we looked, and no key was changed: lost.
            bool was_announced = announced.load() > seen;
            if (was_announced && event.prepare(participant) == key) ++lost;
        }
        event.cancel(participant);
        return lost;
    }
};

void dawdle(std::mt19937& random) {
    for (auto i = random() % 200; i > 0; --i) std::atomic_signal_fence(std::memory_order_seq_cst);
    if (random() % 64 == 0) std::this_thread::yield();
}

}  // namespace

TEST_CASE("a sleeper is known by its bit, from prepare() to cancel() or a wake-up",
          "[ipc][event_count]") {
    EventCount event;
    CHECK_FALSE(event.has_sleepers());
    (void)event.prepare(0);
    (void)event.prepare(EventCount::kMaxParticipants - 1);
    CHECK(event.has_sleepers());
    event.cancel(0);
    CHECK(event.has_sleepers());
    event.cancel(0);  // a second time changes nothing
    event.cancel(EventCount::kMaxParticipants - 1);
    CHECK_FALSE(event.has_sleepers());
    (void)event.prepare(3);
    event.notify_all();
    CHECK_FALSE(event.has_sleepers());
    event.cancel(3);
    CHECK_FALSE(event.has_sleepers());
}

TEST_CASE("only a notification with somebody to notify changes the key", "[ipc][event_count]") {
    EventCount event;
    event.notify_all();
    EventCount::Key first = event.prepare(0);
    CHECK(event.prepare(1) == first);
    event.notify_all();
    EventCount::Key second = event.prepare(0);
    CHECK(second != first);
    event.wait(first, late());  // stale: returns at once
    event.cancel(0);
    event.notify_all();
    CHECK(event.prepare(0) == second);
}

TEST_CASE("a wait ends at its deadline, and without one by itself", "[ipc][event_count]") {
    EventCount event;
    DeathEpoch epoch;
    EventCount::Key key = event.prepare(0);
    event.wait(key, soon());
    event.wait(key, epoch, epoch.value.load(), soon());
    event.wait(key, sys::Clock::now() - 1s);
    event.wait(key, {});  // kLongestSleep
    CHECK(event.prepare(0) == key);
}

TEST_CASE("a death ends every sleep that watches for it", "[ipc][event_count]") {
    EventCount event;
    DeathEpoch epoch;
    std::atomic<int> woken{0};
    std::vector<std::thread> sleepers;
    for (unsigned i = 0; i < 3; ++i)
        sleepers.emplace_back([&, i] {
            std::uint32_t alive = epoch.value.load();
            while (epoch.value.load() == 0) {
                EventCount::Key key = event.prepare(i);
                if (epoch.value.load() == 0) event.wait(key, epoch, alive, late());
                event.cancel(i);
            }
            ++woken;
        });
    epoch.announce();
    for (std::thread& t : sleepers) t.join();
    CHECK(woken == 3);
    event.wait(event.prepare(0), epoch, 0, late());  // announced before: returns at once
}

TEST_CASE("no wake-up is lost between two that talk in turn", "[ipc][event_count]") {
    constexpr std::uint64_t kRounds = 20'000;
    Stream there, back;
    int lost_there = 0, lost_back = 0;
    std::thread echo([&] {
        std::mt19937 random(1);
        for (std::uint64_t i = 0; i < kRounds; ++i) {
            lost_there += there.wait_beyond(i, 0);
            dawdle(random);
            back.send();
        }
    });
    std::mt19937 random(2);
    for (std::uint64_t i = 0; i < kRounds; ++i) {
        dawdle(random);
        there.send();
        lost_back += back.wait_beyond(i, 63);
    }
    echo.join();
    CHECK(lost_there == 0);
    CHECK(lost_back == 0);
}

TEST_CASE("no wake-up is lost among several sleepers", "[ipc][event_count]") {
    constexpr std::uint64_t kRounds = 5'000;
    constexpr unsigned kSleepers = 4;
    Stream stream, replies[kSleepers];
    std::atomic<int> lost{0};
    std::vector<std::thread> sleepers;
    for (unsigned s = 0; s < kSleepers; ++s)
        sleepers.emplace_back([&, s] {
            std::mt19937 random(s);
            for (std::uint64_t i = 0; i < kRounds; ++i) {
                lost += stream.wait_beyond(i, s);
                dawdle(random);
                replies[s].send();
            }
        });
    for (std::uint64_t i = 0; i < kRounds; ++i) {
        stream.send();
        for (Stream& reply : replies) lost += reply.wait_beyond(i, 0);
    }
    for (std::thread& t : sleepers) t.join();
    CHECK(lost == 0);
}

TEST_CASE("no wake-up is lost when notifiers overlap", "[ipc][event_count]") {
    constexpr std::uint64_t kRounds = 50'000;
    EventCount event;
    std::atomic<std::uint64_t> round{0}, sent[2] = {}, announced[2] = {};
    std::vector<std::thread> notifiers;
    for (unsigned n = 0; n < 2; ++n)
        notifiers.emplace_back([&, n] {
            std::mt19937 random(n);
            for (std::uint64_t i = 1; i <= kRounds; ++i) {
                while (round.load() < i) std::this_thread::yield();
                dawdle(random);
                sent[n].store(i, std::memory_order_relaxed);
                event.notify_all();
                announced[n].store(i);
            }
        });
    auto all_at = [](const std::atomic<std::uint64_t>(&of)[2], std::uint64_t i) {
        return of[0].load() == i && of[1].load() == i;
    };
    int lost = 0;
    for (std::uint64_t i = 1; i <= kRounds; ++i) {
        round.store(i);
        for (;;) {
            EventCount::Key key = event.prepare(0);
            if (all_at(sent, i)) break;
            event.wait(key, {});
            if (all_at(announced, i) && event.prepare(0) == key) ++lost;
        }
        event.cancel(0);
    }
    for (std::thread& t : notifiers) t.join();
    CHECK(lost == 0);
}

TEST_CASE("a sleeper of another process is woken", "[ipc][event_count]") {
    Segment segment = Segment::create("sidestep-test", 4096);
    auto* stream = new (segment.data()) Stream;
    pid_t pid = fork();
    if (pid == 0) {
        for (std::uint64_t i = 0; i < 100; ++i)
            if (stream->wait_beyond(i, 1) != 0) _exit(1);
        _exit(0);
    }
    for (int i = 0; i < 100; ++i) stream->send();
    sidestep::Fd pidfd = sys::pidfd_open(pid);
    CHECK(sys::wait_pidfd(pidfd.get(), true).success());
}

TEST_CASE("a sleeper that is killed costs the next notifier one system call, no more",
          "[ipc][event_count]") {
    Segment segment = Segment::create("sidestep-test", 4096);
    auto* event = new (segment.data()) EventCount;
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) event->wait(event->prepare(5), {});
    }
    CHECK(test::eventually([&] { return event->has_sleepers(); }));
    sidestep::Fd pidfd = sys::pidfd_open(pid);
    sys::pidfd_send_signal(pidfd.get(), SIGKILL);
    (void)sys::wait_pidfd(pidfd.get(), true);
    CHECK(event->has_sleepers());  // its bit stays behind
    EventCount::Key before = event->prepare(0);
    event->notify_all();
    CHECK_FALSE(event->has_sleepers());
    CHECK(event->prepare(0) != before);
    event->cancel(0);
    CHECK_FALSE(event->has_sleepers());
}

TEST_CASE("a signal handler that runs during a sleep loses nothing", "[ipc][event_count]") {
    struct sigaction ignore = {}, before = {};
    ignore.sa_handler = [](int) {};
    REQUIRE(sigaction(SIGUSR1, &ignore, &before) == 0);
    Stream stream;
    std::atomic<bool> done{false};
    std::thread sleeper([&] {
        (void)stream.wait_beyond(0, 0);
        done = true;
    });
    for (int i = 0; i < 20; ++i) {
        CHECK(test::eventually([&] { return stream.event.has_sleepers(); }));
        pthread_kill(sleeper.native_handle(), SIGUSR1);
    }
    CHECK_FALSE(done);
    stream.send();
    sleeper.join();
    CHECK(sigaction(SIGUSR1, &before, nullptr) == 0);
}

}  // namespace event_count_test

// Processes that share an object with one that writes over its memory: the object may be lost, and
// an error says so. Nobody hangs, crashes, or gets a wrong result in silence. Each round makes an
// object, writes over it, and uses it. SCRIBBLE_ROUNDS makes a run long, --rng-seed repeats it.
#include <signal.h>
#include <sys/prctl.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>

#include <catch2/catch.hpp>

#include <sidestep/queue.hpp>
#include <sidestep/shared.hpp>
#include <sidestep/shared_heap.hpp>
#include <sidestep/sync.hpp>

#include "queue/byte_ring.hpp"
#include "scribble.hpp"
#include "support.hpp"

namespace scribble_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::attempt;
using test::PartnersView;
using test::Random;
using test::require;
using test::scribble;

namespace {

struct Progress {
    std::atomic<int> round{0};
    char text[256];
};

// Rounds in a child, whose crash, hang or wrong result is found here. As many as there is time for,
// but `least`; or as many as the environment says.
void in_rounds(int least, const std::function<void(Random&)>& round) {
    unsigned seed = Catch::rngSeed() != 0 ? Catch::rngSeed() : std::random_device{}();
    constexpr auto kTime = 4s;
    const char* wanted = std::getenv("SCRIBBLE_ROUNDS");
    const int most = wanted ? std::atoi(wanted) : 600;
    if (wanted) least = most;
    test::SharedPage<Progress> progress;
    test::Child child([&] {
        auto end = std::chrono::steady_clock::now() + kTime;
        for (int i = 0; i < most && (i < least || std::chrono::steady_clock::now() < end); ++i) {
            progress->round = i;
            Random random(seed + static_cast<unsigned>(i) * 7919);
            try {
                round(random);
            } catch (const test::Wrong& wrong) {
                std::snprintf(progress->text, sizeof progress->text, "wrong: %s", wrong.what);
                return 1;
            } catch (const std::exception& error) {
                std::snprintf(progress->text, sizeof progress->text, "threw: %s", error.what());
                return 1;
            }
        }
        return 0;
    });
    auto has_ended = [&] {
        siginfo_t info = {};
        ::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WEXITED | WNOHANG | WNOWAIT);
        return info.si_pid != 0;
    };
    for (bool ended = false; !ended;) {
        int before = progress->round;
        INFO("seed " << seed << ", round " << before);
        REQUIRE(
            test::eventually([&] { return (ended = has_ended()) || progress->round != before; }));
    }
    int code = child.wait();
    CAPTURE(seed, progress->round.load(), std::string(progress->text));
    CHECK(code == 0);
}

// Another thread of the process that uses the object.
class Other {
  public:
    explicit Other(std::function<void()> f)
        : thread_([this, f] {
              try {
                  f();
              } catch (const test::Wrong& wrong) {
                  wrong_ = wrong.what;
              } catch (const std::exception&) {  // an error, as attempt()
              }
          }) {}
    void join() {
        thread_.join();
        if (wrong_) throw test::Wrong{wrong_};
    }

  private:
    const char* wrong_ = nullptr;
    std::thread thread_;
};

template <class L>
void lock_round(Random& random) {
    L lock;
    PartnersView partner(lock);
    bool held = random() % 2 == 0;
    if (held) lock.lock();
    scribble(partner, random);
    if (held) attempt([&] { lock.unlock(); });
    // However often it was taken before: where it was, nobody holds it any more.
    if (lock.holder() == getpid()) attempt([&] { lock.unlock(); });
    Other other([&] {
        lock.lock();
        (void)lock.owner_died();
        lock.unlock();
        require(lock.try_lock_for(test::kPatience), "a lock that was given up can be had");
        lock.unlock();
    });
    other.join();
    attempt([&] { (void)test::travel(lock); });
}

template <class S>
void semaphore_round(Random& random) {
    S semaphore(3, {.returned_on_death = random() % 2 == 0});
    PartnersView partner(semaphore);
    semaphore.acquire();
    scribble(partner, random);
    attempt([&] { require(semaphore.value() <= unsigned(INT_MAX), "a value that cannot be"); });
    attempt([&] { semaphore.release(); });
    attempt([&] { (void)semaphore.try_acquire_for(1ms); });
    attempt([&] { (void)test::travel(semaphore); });
}

std::vector<int> numbered(int number) {
    return std::vector<int>(1 + static_cast<std::size_t>(number) % 30, number);
}
bool is_whole(const std::vector<int>& item) { return !item.empty() && item == numbered(item[0]); }

// Of a queue, only what is before the items' bytes: those are not checked.
std::span<std::byte> head_of(const PartnersView& partner) {
    return partner.regions()[0].first(std::min<std::size_t>(partner.regions()[0].size(), 16 << 10));
}

template <class Q>
void use_queue(Q& queue, bool items_are_whole) {
    attempt([&] { (void)queue.put_for(numbered(100), 1ms); });
    for (int i = 0; i < 8; ++i)
        attempt([&] {
            auto item = queue.get_for(0ms);
            if (item && items_are_whole) require(is_whole(*item), "an item that nobody put");
        });
    attempt([&] { (void)queue.try_get_many(5); });
    attempt([&] { (void)queue.full(); });
    attempt([&] {
        (void)queue.fd();
        (void)queue.try_put(numbered(3));
        (void)queue.try_get();
    });
    attempt([&] { (void)test::travel(queue); });
    attempt([&] { queue.shut_down(); });
    attempt([&] { (void)queue.get_for(1ms); });
}

}  // namespace

TEMPLATE_TEST_CASE("a lock that is written over is free, for all who use it", "[ipc][scribble]",
                   Lock, RLock) {
    in_rounds(100, lock_round<TestType>);
}

TEST_CASE("an RLock that is written over does not lock out the thread that holds it",
          "[ipc][scribble]") {
    in_rounds(100, [](Random& random) {
        RLock lock;
        PartnersView partner(lock);
        lock.lock();
        lock.lock();
        // Not all of it, which would be a living holder's no more: what is behind the owner.
        scribble(partner.regions()[0].subspan(sizeof(ObjectHeader) + 8), random);
        lock.lock();
        require(lock.depth() == 3, "the depth is the holder's own");
        for (int i = 0; i < 3; ++i) lock.unlock();
        require(!lock.holder(), "it was given up");
    });
}

TEMPLATE_TEST_CASE("a semaphore that is written over throws, or has permits that can be",
                   "[ipc][scribble]", Semaphore, BoundedSemaphore) {
    in_rounds(100, semaphore_round<TestType>);
}

TEMPLATE_TEST_CASE("permits with and without owners are no more than there can be, together",
                   "[ipc][scribble]", Semaphore, BoundedSemaphore) {
    TestType semaphore(3, {.returned_on_death = true});
    PartnersView partner(semaphore);
    // The count of those without: behind the header and three words.
    std::byte* counter = partner.regions()[0].data() + sizeof(ObjectHeader) + 12;
    for (std::uint32_t wrong : {std::uint32_t(INT_MAX), std::uint32_t(INT_MAX) - 2}) {
        std::memcpy(counter, &wrong, sizeof wrong);
        CHECK_THROWS_AS(semaphore.value(), DamagedError);
    }
    std::memset(counter, 0, 4);
    CHECK(semaphore.value() == 3);
}

TEST_CASE("an event that is written over can be set and waited for", "[ipc][scribble]") {
    in_rounds(50, [](Random& random) {
        Event event;
        PartnersView partner(event);
        Other other([&] { event.wait(); });
        scribble(partner, random);
        event.set();
        event.wait();
        other.join();
        event.clear();
        require(!event.is_set(), "it was cleared");
        attempt([&] { (void)test::travel(event); });
    });
}

TEST_CASE("who waits on a condition that is written over is woken, or told", "[ipc][scribble]") {
    in_rounds(50, [](Random& random) {
        Condition condition;
        PartnersView partner(condition, 1);
        Other other([&] {
            std::unique_lock lock(condition);
            condition.wait();
        });
        require(test::eventually([&] {
                    std::unique_lock lock(condition);
                    return condition.waiting() == 1;
                }),
                "it waits");
        scribble(partner, random);
        for (int i = 0; i < 2; ++i)
            attempt([&] {
                std::unique_lock lock(condition);
                condition.notify_all();
            });
        other.join();
        attempt([&] { (void)test::travel(condition); });
    });
}

TEST_CASE("a barrier that is written over breaks, or lets its parties go", "[ipc][scribble]") {
    in_rounds(50, [](Random& random) {
        auto parties = static_cast<unsigned>(2 + random() % 3);
        Barrier barrier(parties);
        PartnersView partner(barrier);
        Other other([&] { require(barrier.wait() < parties, "an index that cannot be"); });
        require(test::eventually([&] { return barrier.n_waiting() == 1; }), "it waits");
        scribble(partner, random);
        attempt([&] { (void)barrier.wait_for(5ms); });
        if (random() % 2 == 0) attempt([&] { barrier.abort(); });  // it is broken by now, or passed
        other.join();
        attempt([&] { (void)test::travel(barrier); });
        barrier.reset();
        require(barrier.parties() == parties && !barrier.broken(), "reset() repairs it");
    });
}

TEST_CASE("a value or an array that is written over keeps its place, size and lock",
          "[ipc][scribble]") {
    in_rounds(100, [](Random& random) {
        Value<int> value(7);
        Array<long> array(random() % 2 == 0 ? 10u : 5000u);
        PartnersView of_value(value), of_array(array.raw(), 1);
        std::size_t size = array.size();
        scribble(of_value, random);
        scribble(of_array, random);
        {
            std::scoped_lock lock(value.mutex(), array.mutex());
            value.value() = 8;
            require(value.value() == 8 && array.size() == size, "they are where they were");
            std::fill(array.begin(), array.end(), 1);
        }
        attempt([&] { (void)test::travel(value); });
        attempt([&] {
            auto other = test::travel(array);
            require(other.size() <= PartnersView::kMost, "an array that is larger than it was");
            std::fill(other.begin(), other.end(), 1);
        });
    });
}

TEST_CASE("the lock of a heap that is written over can be had", "[ipc][scribble]") {
    in_rounds(100, [](Random& random) {
        SharedHeap heap(64 << 10);
        PartnersView of_lock(heap.mutex());
        scribble(of_lock, random);
        std::scoped_lock lock(heap.mutex());
        require(heap.sane(), "the heap itself was left alone");
    });
}

TEST_CASE("a list that is written over is read within its memory", "[ipc][scribble]") {
    in_rounds(200, [](Random& random) {
        ShareableList list{"howdy", 100, 1.5, nullptr, true, ByteString{"bytes"}};
        for (int i = 0; i < 3; ++i) scribble(list.memory().bytes(), random);
        attempt([&] { (void)list.items(); });
        attempt([&] { (void)to_string(list); });
        attempt([&] { (void)list.format(); });
        for (std::ptrdiff_t i = 0; i < 6; ++i) {
            attempt([&] { (void)list.get(i); });
            attempt([&] { list.set(i, "text"); });
        }
        attempt([&] { (void)ShareableList(open_only, list.memory().name()); });
    });
}

TEST_CASE("a queue that is written over throws, and hands out nothing that nobody put",
          "[ipc][scribble]") {
    in_rounds(100, [](Random& random) {
        bool all = random() % 2 == 0;
        Queue<std::vector<int>> queue({.max_items = 8, .max_bytes = 8 << 10});
        auto producer = queue.producer();
        for (int i = 0; i < static_cast<int>(random() % 200); ++i) {  // somewhere in the ring
            queue.put(numbered(i));
            (void)queue.get();
        }
        for (int i = 0; i < 5; ++i) producer.put(numbered(i));
        PartnersView partner(queue);
        for (unsigned i = 0; i < 4; ++i)
            scribble(all ? partner.regions()[0] : head_of(partner), random);
        use_queue(queue, !all);
    });
}

TEST_CASE("no record is put over others, wherever a place that was written over says there is room",
          "[ipc][scribble]") {
    constexpr std::uint32_t kUnits = 512;
    RingWords words;
    std::vector<std::byte> memory(kUnits * kUnit);
    ByteRing ring(words, memory.data(), kUnits, 100);
    auto put = [&](std::byte content, std::size_t units) {
        std::vector<std::byte> record(units * kUnit, content);
        std::uint64_t length = (units - 1) * kUnit;
        std::memcpy(record.data(), &length, sizeof length);
        return ring.put(record.data(), record.data() + record.size()) != record.data();
    };
    auto get = [&] {  // the content; zero: not all of it is the same
        std::vector<std::byte> record;
        REQUIRE(ring.has_records());
        ring.copy(1, 1, [&](const std::byte* data, std::size_t size) {
            record.insert(record.end(), data, data + size);
            return record.data() + record.size() - size;
        });
        ring.commit();
        bool same = std::all_of(record.begin() + 8, record.end(),
                                [&](std::byte each) { return each == record[8]; });
        return same ? record[8] : std::byte{0};
    };
    for (int i = 1; i <= 3; ++i) REQUIRE(put(std::byte(i), 150));
    for (int i = 1; i <= 2; ++i) REQUIRE(get() == std::byte(i));
    REQUIRE((put(std::byte{4}, 150) && put(std::byte{5}, 100)));  // at the start
    std::uint32_t place = words.wrap_place;
    REQUIRE(place == 450);
    for (std::uint32_t wrong : {310u, 449u, 260u, 20u, 0u}) {
        words.wrap_place = wrong;
        CHECK_THROWS_AS(put(std::byte{6}, 55), DamagedError);
    }
    words.wrap_place = ~0u;  // there is none
    CHECK_FALSE(put(std::byte{6}, 55));
    words.wrap_place = place;
    const std::uint64_t tail = words.tail;
    for (std::uint64_t wrong : {tail - 2, tail + 2, tail - 100, std::uint64_t(0)}) {
        words.tail = wrong;
        CHECK_THROWS_AS(put(std::byte{6}, 55), DamagedError);
    }
    words.tail = tail;
    words.tail_after = tail + 7;  // its putter was killed before it stored the tail, and
    words.tail_before = tail;     // so were all before it
    const std::uint64_t seen_head = words.seen_head;
    words.seen_head = RingCursor{place, RingCursor::unpack(seen_head).count}.pack();
    CHECK(put(std::byte{6}, 55));
    for (int i = 3; i <= 6; ++i) CHECK(get() == std::byte(i));
}

TEST_CASE("a joinable queue that is written over throws, and hands out nothing that nobody put",
          "[ipc][scribble]") {
    in_rounds(50, [](Random& random) {
        JoinableQueue<std::vector<int>> queue(
            {.max_items = 8, .max_bytes = 8 << 10, .lease = random() % 2 == 0});
        for (int i = 0; i < 5; ++i) queue.put(numbered(i));
        // On loan to a process that is dead.
        test::Child([&] { (void)queue.get(); }).kill();
        (void)queue.get();
        PartnersView partner(queue);
        for (unsigned i = 0; i < 4; ++i) scribble(head_of(partner), random);
        attempt([&] { (void)queue.unfinished(); });
        attempt([&] { queue.task_done(); });
        use_queue(queue, true);
        attempt([&] { (void)queue.join_for(1ms); });
    });
}

TEST_CASE("a number that changes between two looks of a condition leads nobody astray",
          "[ipc][scribble]") {
    in_rounds(1, [](Random&) {
        Condition condition;
        PartnersView partner(condition, 1);
        // How many places are in use: behind the header and the last ticket.
        std::byte* used = partner.regions()[1].data() + sizeof(ObjectHeader) + 8;
        test::SharedPage<std::atomic<int>> changes;
        test::Child scribbler([&] {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (std::uint32_t number = 1;; number = ~number) {
                std::memcpy(used, &number, sizeof number);
                ++*changes;
            }
        });
        constexpr int kMost = 200'000;  // there are times when it does not run
        for (int i = 0, seen = 0; i < kMost && seen < 2000; ++i) {
            int before = *changes;
            attempt([&] {
                std::unique_lock lock(condition);
                (void)condition.waiting();
                condition.notify_all();
                (void)condition.wait_for(0ms);
            });
            seen += *changes != before;
        }
    });
}

TEST_CASE("a process that never stops writing over what it shares harms nobody but the objects",
          "[ipc][scribble]") {
    in_rounds(3, [](Random& random) {
        Queue<std::vector<int>> queue({.max_items = 8, .max_bytes = 8 << 10});
        Semaphore semaphore(3);
        Lock lock;
        Barrier barrier(2);
        ShareableList list{"howdy", 100, 1.5};
        PartnersView partners[] = {PartnersView(queue), PartnersView(semaphore), PartnersView(lock),
                                   PartnersView(barrier)};
        unsigned seed = static_cast<unsigned>(random());
        test::Child scribbler([&] {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            Random own(seed);
            for (;;) {
                for (const PartnersView& partner : partners) scribble(partner, own);
                scribble(list.memory().bytes(), own);
                for (unsigned i = 0; i < own() % 20; ++i) ::sched_yield();
            }
        });
        for (int i = 0; i < 40; ++i) {
            attempt([&] { (void)queue.put_for(numbered(i), 0ms); });
            attempt([&] { (void)queue.get_for(0ms); });
            attempt([&] { (void)queue.try_get_many(4); });
            attempt([&] { (void)semaphore.try_acquire(); });
            attempt([&] { semaphore.release(); });
            attempt([&] { (void)lock.try_lock_for(0ms); });
            attempt([&] { lock.unlock(); });
            attempt([&] { (void)barrier.n_waiting(); });
            attempt([&] { (void)barrier.wait_for(0ms); });
            attempt([&] { (void)list.items(); });
            attempt([&] { list.set(0, "x"); });
        }
    });
}

TEST_CASE("no process can write over a Shared value", "[ipc][scribble]") {
    Shared<std::vector<int>> value(std::vector<int>(1000, 42));
    CHECK_THROWS_AS(PartnersView(value), std::logic_error);  // it cannot be mapped for writing
    detail::HeapBuffer buffer;
    test::FdCollector fds;
    OutputArchive archive(buffer, &fds);
    archive(value);
    REQUIRE(fds.fds.size() == 1);
    CHECK(::pwrite(fds.fds[0], "x", 1, 200) < 0);
    // Nor by what a forked child has inherited.
    test::Child child([&] {
        struct stat status = {};
        ::fstat(fds.fds[0], &status);
        std::FILE* maps = std::fopen("/proc/self/maps", "r");
        char line[512];
        while (std::fgets(line, sizeof line, maps)) {
            unsigned long begin = 0, inode = 0;
            char protection[5] = {};
            if (std::sscanf(line, "%lx-%*x %4s %*x %*s %lu", &begin, protection, &inode) == 3 &&
                inode == status.st_ino)
                return protection[1] == 'w' ? 2 : 0;
        }
        return 1;
    });
    CHECK(child.wait() == 0);
    auto other = test::travel(value);
    CHECK(other.get() == value.get());
}

}  // namespace scribble_test

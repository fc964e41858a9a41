// Handles that travel: in a message to a process that existed before they did.
#include <sidestep/sync.hpp>

#include <mutex>

#include <catch2/catch.hpp>

#include "support.hpp"

#include "memory/mapped_segment.hpp"
#include "processes.hpp"

namespace sync_travel_test {

using namespace sidestep;
using namespace std::chrono_literals;

namespace {

// A child that is older than the handles it gets.
template <class... T, class F>
test::Child receiver(const test::Channel& channel, F f) {
    return test::Child([&channel, f]() mutable {
        std::tuple<T...> handles{sidestep::detail::make_blank<T>()...};
        std::apply([&](auto&... each) { channel.receive(each...); }, handles);
        return std::apply(f, handles);
    });
}

}  // namespace

TEST_CASE("locks work in a process that is older than they", "[ipc][travel]") {
    test::Channel channel;
    test::Child child = receiver<Lock, RLock, Event, Event>(
        channel, [](Lock& lock, RLock& rlock, Event& taken, Event& go) {
            std::scoped_lock both(lock, rlock);
            taken.set();
            return go.wait_for(test::kPatience) ? 0 : 1;
        });
    Lock lock;
    RLock rlock;
    Event taken, go;
    channel.send(lock, rlock, taken, go);
    REQUIRE(taken.wait_for(test::kPatience));
    CHECK_FALSE(lock.try_lock());
    CHECK_FALSE(rlock.try_lock());
    CHECK(lock.holder() == child.pid());
    go.set();
    CHECK(child.wait() == 0);
    CHECK(lock.try_lock());
    CHECK_FALSE(lock.owner_died());
    lock.unlock();
}

TEST_CASE("semaphores, conditions and barriers work in a process that is older than they",
          "[ipc][travel]") {
    test::Channel channel;
    test::Child child = receiver<Semaphore, BoundedSemaphore, Condition, Barrier>(
        channel, [](Semaphore& a, BoundedSemaphore& b, Condition& condition, Barrier& barrier) {
            a.acquire();
            b.acquire();
            barrier.wait();
            std::scoped_lock lock(condition);
            condition.notify_all();
            return a.value() == 1 && b.value() == 2 ? 0 : 1;
        });
    Semaphore a(2);
    BoundedSemaphore b(3);
    Lock lock;
    Condition condition(lock);
    Barrier barrier(2, {.timeout = 30s});
    channel.send(a, b, condition, barrier);
    std::scoped_lock hold(condition);
    barrier.wait();
    CHECK(condition.wait_for(test::kPatience));
    CHECK(child.wait() == 0);
    CHECK(a.value() == 2);  // the child died with its permits
    CHECK(b.value() == 3);
}

namespace {

std::atomic<int> actions{0};
void act() { ++actions; }
struct Add {
    int amount = 0;
    void operator()() const { actions += amount; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(amount);
    }
};

}  // namespace

TEST_CASE("a barrier travels with its action", "[ipc][travel][barrier]") {
    actions = 0;
    test::travel(Barrier(1, act)).wait();
    CHECK(actions == 1);
    test::travel(test::travel(Barrier(1, Add{10}))).wait();
    CHECK(actions == 11);
    Event event;
    test::travel(Barrier(1, bind([](Event e) { e.set(); }, event))).wait();
    CHECK(event.is_set());
}

TEST_CASE("a handle that comes home is the same object, mapped once", "[ipc][travel]") {
    Lock lock;
    Lock copy = test::travel(lock);
    CHECK(copy == lock);
    std::scoped_lock hold(lock);
    CHECK_FALSE(copy.try_lock());
}

TEST_CASE("many handles share a segment and a descriptor", "[ipc][travel]") {
    std::vector<Lock> locks(100);
    test::Channel channel;
    detail::HeapBuffer buffer;
    test::FdCollector fds;
    OutputArchive archive(buffer, &fds);
    archive(locks);
    CHECK(fds.fds.size() == 1);
    Lock some = locks[50];
    locks.clear();
    some.lock();  // its memory is still there
    some.unlock();
}

TEST_CASE("a channel that carries bytes only refuses handles and says what to do",
          "[ipc][travel]") {
    Lock lock;
    detail::HeapBuffer buffer;
    OutputArchive archive(buffer);
    CHECK_THROWS_WITH(archive(lock), Catch::Contains("Lock") && Catch::Contains("Process"));
    InputArchive input(buffer.bytes());
    CHECK_THROWS_AS(input(lock), SerializationError);
}

TEST_CASE("what arrives is checked", "[ipc][travel]") {
    Lock lock;
    Event event;
    test::Channel channel;
    channel.send(event);
    CHECK_THROWS_AS(channel.receive<Lock>(), SerializationError);  // another kind of object
    detail::HeapBuffer buffer;
    test::FdCollector fds;
    OutputArchive archive(buffer, &fds);
    archive(lock);
    auto attempt = [&](std::uint64_t offset, int fd) {
        std::uint64_t words[2] = {0, offset};
        sys::send_message(channel.socket(), std::as_bytes(std::span(words)), {&fd, 1});
        CHECK_THROWS_AS(channel.receive<Lock>(), SerializationError);
    };
    for (std::uint64_t offset : {std::uint64_t(8), std::uint64_t(1) << 20, ~std::uint64_t(0),
                                 ~std::uint64_t(127), std::uint64_t(128) << 10})
        attempt(offset, fds.fds[0]);
    attempt(0, STDIN_FILENO);  // no segment
}

TEST_CASE("an object made after fork is the child's own", "[ipc][travel]") {
    Lock first;  // opens the segment that the next small object would share
    test::SharedPage<std::atomic<int>> stage;
    test::Child child([&] {
        Lock mine;
        mine.lock();
        *stage = 1;
        (void)test::eventually([&] { return *stage == 2; });
    });
    Lock mine;
    REQUIRE(test::eventually([&] { return *stage == 1; }));
    CHECK(mine.try_lock());
    mine.unlock();
    *stage = 2;
    CHECK(child.wait() == 0);
}

}  // namespace sync_travel_test

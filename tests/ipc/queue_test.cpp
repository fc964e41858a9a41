#include <sidestep/queue.hpp>

#include <map>
#include <numeric>
#include <thread>

#include <catch2/catch.hpp>

#include <sidestep/event.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/shared_memory.hpp>

#include "processes.hpp"

namespace queue_test {

using sidestep::Event;
using sidestep::JoinableQueue;
using sidestep::Queue;
using sidestep::QueueClosed;
using sidestep::QueueShutDown;
using sidestep::SimpleQueue;
using namespace std::chrono_literals;

TEST_CASE("a full queue refuses, at once or after a while",
          "[ipc][queue][py:_TestQueue.test_put]") {
    Queue<int> queue(6);
    Event start, go_on;
    test::Child child([&] {
        start.wait();
        for (int i = 0; i < 6; ++i) (void)queue.get();
        go_on.set();
    });
    CHECK(queue.empty());
    CHECK_FALSE(queue.full());
    queue.put(1);
    queue.put(2);
    CHECK(queue.put_for(3, 1s));
    CHECK(queue.put_until(4, std::chrono::steady_clock::now() + 1s));
    CHECK(queue.try_put(5));
    CHECK(queue.try_put(6));
    CHECK_FALSE(queue.empty());
    CHECK(queue.full());
    CHECK(queue.size() == 6);
    CHECK_FALSE(queue.try_put(7));
    CHECK_FALSE(queue.put_for(7, 0s));
    auto begin = std::chrono::steady_clock::now();
    CHECK_FALSE(queue.put_for(7, 30ms));
    CHECK(std::chrono::steady_clock::now() - begin >= 30ms);
    start.set();
    CHECK(go_on.wait_for(test::kPatience));
    CHECK(queue.empty());
    CHECK_FALSE(queue.full());
    CHECK(child.wait() == 0);
}

TEST_CASE("items come in order, and an empty queue says so",
          "[ipc][queue][py:_TestQueue.test_get]") {
    Queue<int> queue;
    Event start, go_on;
    test::Child child([&] {
        start.wait();
        for (int i = 2; i <= 5; ++i) queue.put(i);
        go_on.set();
    });
    CHECK(queue.empty());
    start.set();
    CHECK(go_on.wait_for(test::kPatience));
    CHECK_FALSE(queue.empty());
    CHECK(queue.get() == 2);
    CHECK(queue.get_for(test::kPatience) == 3);
    CHECK(queue.get_until(std::chrono::steady_clock::now() + 1s) == 4);
    CHECK(queue.try_get() == 5);
    CHECK(queue.empty());
    CHECK_FALSE(queue.try_get());
    CHECK_FALSE(queue.get_for(-1s));
    auto begin = std::chrono::steady_clock::now();
    CHECK_FALSE(queue.get_for(30ms));
    CHECK(std::chrono::steady_clock::now() - begin >= 30ms);
    CHECK(child.wait() == 0);
}

TEST_CASE("a forked child goes on with the queue", "[ipc][queue][py:_TestQueue.test_fork]") {
    Queue<int> queue;
    for (int i = 0; i < 10; ++i) queue.put(i);
    test::Child child([&] {
        for (int i = 10; i < 20; ++i) queue.put(i);
    });
    for (int i = 0; i < 20; ++i) CHECK(queue.get() == i);
    CHECK_FALSE(queue.try_get());
    CHECK(child.wait() == 0);
}

TEST_CASE("the size is exact", "[ipc][queue][py:_TestQueue.test_qsize]") {
    Queue<int> queue;
    CHECK(queue.size() == 0);
    queue.put(1);
    CHECK(queue.size() == 1);
    queue.put(5);
    CHECK(queue.size() == 2);
    (void)queue.get();
    CHECK(queue.size() == 1);
    (void)queue.get();
    CHECK(queue.size() == 0);
}

TEST_CASE("get_for waits as long as it was told", "[ipc][queue][py:_TestQueue.test_timeout]") {
    Queue<int> queue;
    auto begin = std::chrono::steady_clock::now();
    CHECK_FALSE(queue.get_for(200ms));
    CHECK(std::chrono::steady_clock::now() - begin >= 200ms);
}

namespace {

struct Stubborn {
    bool refuse = false;
    template <class Archive>
    void serialize(Archive& archive) {
        if (refuse) throw std::domain_error("cannot be serialized");
        archive(refuse);
    }
};
struct Unreadable {
    int value = 0;
    void save(sidestep::OutputArchive& archive) const { archive(value); }
    void load(sidestep::InputArchive& archive) {
        archive(value);
        if (value < 0) throw std::domain_error("cannot be read");
    }
};

}  // namespace

TEST_CASE("put throws what the item's serialization throws, and the queue goes on",
          "[ipc][queue][py:_TestQueue.test_queue_feeder_donot_stop_onexc]"
          "[py:_TestQueue.test_queue_feeder_on_queue_feeder_error]") {
    Queue<Stubborn> queue(1);
    CHECK_THROWS_AS(queue.put({.refuse = true}), std::domain_error);
    CHECK(queue.size() == 0);
    queue.put({});
    CHECK(queue.size() == 1);
    CHECK(queue.get_for(test::kPatience));
    CHECK(queue.empty());
}

TEST_CASE("an item with a handle inside is refused, with what to do instead", "[ipc][queue]") {
    struct Holder {
        sidestep::Lock lock;
        void save(sidestep::OutputArchive& archive) const { archive(lock); }
        void load(sidestep::InputArchive& archive) { archive(lock); }
    };
    Queue<Holder> queue;
    CHECK_THROWS_WITH(queue.put({}), Catch::Contains("a Lock cannot be written here") &&
                                         Catch::Contains("argument of a Process") &&
                                         Catch::Contains("Pipe"));
    CHECK(queue.empty());
}

TEST_CASE("shared memory is an item by its name", "[ipc][queue]") {
    using sidestep::SharedMemory;
    Queue<SharedMemory> queue;
    SharedMemory memory(sidestep::create_only, 100);
    memory.bytes()[99] = std::byte{42};
    queue.put(memory);
    CHECK(queue.get().bytes()[99] == std::byte{42});
}

TEST_CASE("get throws what reading the item throws, and the queue goes on", "[ipc][queue]") {
    Queue<Unreadable> queue;
    queue.put({-1});
    queue.put({7});
    CHECK_THROWS_AS(queue.get(), std::domain_error);
    CHECK(queue.get().value == 7);
}

TEMPLATE_TEST_CASE("a closed queue refuses put and get",
                   "[ipc][queue][py:_TestQueue.test_closed_queue_put_get_exceptions]", Queue<int>,
                   JoinableQueue<int>, SimpleQueue<int>) {
    TestType queue, copy = queue, other = test::travel(queue);
    queue.close();
    queue.close();
    CHECK(queue.closed());
    CHECK_THROWS_AS(queue.put(1), QueueClosed);
    CHECK_THROWS_AS(queue.get(), QueueClosed);
    CHECK_THROWS_AS(copy.try_get(), QueueClosed);
    CHECK_THROWS_AS(queue.size(), QueueClosed);
    other.put(1);  // another process's handle, as it were
    CHECK(other.get() == 1);
}

TEMPLATE_TEST_CASE("a queue that was used and closed does not say whether it is empty",
                   "[ipc][queue][py:_TestQueue.test_closed_queue_empty_exceptions]", Queue<int>,
                   JoinableQueue<int>) {
    TestType unused, used;
    unused.close();
    CHECK(unused.empty());
    used.put(1);
    used.close();
    CHECK_THROWS_AS(used.empty(), QueueClosed);
}

TEST_CASE("a simple queue that was closed does not say whether it is empty",
          "[ipc][queue][py:TestSimpleQueue.test_empty_exceptions]") {
    SimpleQueue<int> queue;
    queue.close();
    CHECK_THROWS_AS(queue.empty(), QueueClosed);
}

TEST_CASE("a simple queue knows when it is empty", "[ipc][queue][py:TestSimpleQueue.test_empty]") {
    SimpleQueue<bool> queue;
    Event start, go_on;
    test::Child child([&] {
        start.wait();
        queue.put(queue.empty());
        queue.put(queue.empty());
        go_on.set();
    });
    CHECK(queue.empty());
    start.set();
    CHECK(go_on.wait_for(test::kPatience));
    CHECK_FALSE(queue.empty());
    CHECK(queue.get());
    CHECK_FALSE(queue.get());
    CHECK(queue.empty());
    CHECK(child.wait() == 0);
}

TEST_CASE("a simple queue can be closed twice, and is closed then",
          "[ipc][queue][py:TestSimpleQueue.test_close][py:TestSimpleQueue.test_closed]") {
    SimpleQueue<int> queue;
    CHECK_FALSE(queue.closed());
    queue.close();
    queue.close();
    CHECK(queue.closed());
}

TEST_CASE("closing wakes who waits in this process", "[ipc][queue]") {
    Queue<int> queue;
    std::atomic<bool> threw{false};
    std::thread waiter([&] {
        try {
            (void)queue.get();
        } catch (const QueueClosed&) {
            threw = true;
        }
    });
    queue.close();
    waiter.join();
    CHECK(threw);
}

TEST_CASE("after shut_down, what is in the queue can be had, and nothing goes in", "[ipc][queue]") {
    Queue<int> queue;
    test::Child waiter([&] {
        for (int i = 0; i < 2; ++i) (void)queue.get();
        try {
            (void)queue.get();
        } catch (const QueueShutDown&) {
            return 0;
        }
        return 1;
    });
    queue.put(1);
    queue.put(2);
    queue.shut_down();
    CHECK_THROWS_AS(queue.put(3), sidestep::PutAfterShutDown);
    CHECK(waiter.wait() == 0);
    CHECK_THROWS_AS(queue.try_get(), QueueShutDown);
    Queue<int> dropped;
    dropped.put(1);
    dropped.shut_down(true);
    CHECK_THROWS_AS(dropped.get(), QueueShutDown);
}

TEST_CASE("shut_down wakes who waits for room", "[ipc][queue]") {
    Queue<int> queue(1);
    queue.put(1);
    test::Child producer([&] {
        try {
            queue.put(2);
        } catch (const sidestep::PutAfterShutDown&) {
            return 0;
        }
        return 1;
    });
    queue.shut_down();
    CHECK(producer.wait() == 0);
}

TEST_CASE("items of all sizes and types pass", "[ipc][queue]") {
    Queue<std::map<std::string, std::vector<double>>> maps;
    maps.put({{"a", {1, 2}}, {"b", {}}});
    CHECK(maps.get().at("a")[1] == 2);
    Queue<std::string> strings({.max_bytes = 1 << 20});
    for (std::size_t size : {0u, 1u, 7u, 8u, 9u, 1000u, 1016u, 1017u, 4096u, 100000u, 500000u}) {
        std::string text(size, 'x');
        strings.put(text);
        CHECK(strings.get() == text);
    }
    std::size_t largest = (1 << 19) - 16;  // with the length of the string
    strings.put(std::string(largest, 'y'));
    CHECK(strings.get().size() == largest);
    CHECK_THROWS_AS(strings.put(std::string(largest + 9, 'z')), std::length_error);
    Queue<std::string> huge;
    huge.put(std::string(100 << 20, 'h'));
    CHECK(huge.get().size() == 100 << 20);
}

TEST_CASE("a queue of few bytes wraps and stays in order", "[ipc][queue]") {
    unsigned seed = Catch::rngSeed() != 0 ? Catch::rngSeed() : 1;
    std::size_t bytes = GENERATE(std::size_t(4096), std::size_t(1) << 20);
    Queue<std::string> queue({.max_bytes = bytes});
    std::minstd_rand random(seed);
    std::deque<std::string> model;
    std::size_t longest = bytes / 2 - 32;
    for (int i = 0; i < 20000; ++i) {
        if (random() % 2 == 0) {
            std::size_t size = random() % 8 == 0 ? random() % longest : random() % 64;
            std::string text(size, static_cast<char>('a' + i % 26));
            if (queue.try_put(text)) model.push_back(text);
        } else if (auto item = queue.try_get()) {
            REQUIRE(!model.empty());
            REQUIRE(*item == model.front());
            model.pop_front();
        } else {
            REQUIRE(model.empty());
        }
        REQUIRE(queue.size() == model.size());
    }
}

TEST_CASE("a large item finds room in the end, wherever the ring stands", "[ipc][queue]") {
    Queue<std::string> queue({.max_bytes = 4096});
    for (std::size_t before = 0; before < 2000; before += 8) {
        queue.put(std::string(before, 'a'));
        (void)queue.get();
        REQUIRE(queue.try_put(std::string(2024, 'b')));
        (void)queue.get();
    }
}

TEST_CASE("a queue without a bound takes what comes, wherever its ring stands", "[ipc][queue]") {
    unsigned seed = Catch::rngSeed() != 0 ? Catch::rngSeed() : 1;
    std::minstd_rand random(seed);
    Queue<std::pair<long, long>> queue;
    long put = 0, got = 0;
    for (int phase = 0; phase < 40; ++phase) {
        long more = static_cast<long>(random() % 40000),
             leave = static_cast<long>(random() % 20000);
        for (long i = 0; i < more; ++i) {
            if (!queue.try_put({put, put})) FAIL("full");
            ++put;
        }
        while (put - got > leave) {
            auto item = queue.try_get();
            if (!item || item->first != got) FAIL("not the next item");
            ++got;
        }
        REQUIRE(queue.size() == std::size_t(put - got));
    }
}

namespace {

// Shared memory only: the heap is the allocator's affair.
long resident_kib() {
    auto text = sidestep::sys::read_file("/proc/self/status").value_or("");
    return std::stol(text.substr(text.find("RssShmem:") + 9));
}

}  // namespace

TEST_CASE("a queue that is nearly emptied each time stays small, whatever the batches",
          "[ipc][queue]") {
    Queue<std::pair<long, long>> queue;
    queue.put({0, 0});
    std::vector<std::pair<long, long>> batch(64);
    long before = resident_kib();
    for (int i = 0; i < 20000; ++i) {  // 30 MB pass through
        queue.put_many(batch);
        REQUIRE(queue.get_many(64).size() == 64);
    }
    CHECK(queue.try_get_many(std::size_t(1) << 31).size() == 1);  // more than a queue can hold
    CHECK(resident_kib() < before + 4 * 1024);
}

TEST_CASE("a queue that was long gives its memory back", "[ipc][queue]") {
    Queue<std::string> queue;
    std::string megabyte(1 << 20, 'm');
    for (int i = 0; i < 100; ++i) queue.put(megabyte);
    long full = resident_kib();
    for (int i = 0; i < 100; ++i) (void)queue.get();
    CHECK(resident_kib() < full - 90 * 1024);
    queue.put(megabyte);
    CHECK(queue.get() == megabyte);
}

TEST_CASE("batches go in and out whole", "[ipc][queue]") {
    Queue<int> queue;
    std::vector<int> numbers(100000);
    std::iota(numbers.begin(), numbers.end(), 0);
    test::Child producer([&] { queue.put_many(numbers); });
    std::vector<int> got;
    while (got.size() < numbers.size()) {
        auto some = queue.get_many(1000);
        REQUIRE(!some.empty());
        REQUIRE(some.size() <= 1000);
        got.insert(got.end(), some.begin(), some.end());
    }
    CHECK(got == numbers);
    CHECK(queue.try_get_many(10).empty());
    CHECK(queue.get_many_for(10, 1ms).empty());
    CHECK(queue.get_many(0).empty());
    CHECK(producer.wait() == 0);
}

TEST_CASE("a batch larger than the queue waits for room piece by piece", "[ipc][queue]") {
    Queue<int> queue(10);
    std::vector<int> numbers(1000);
    std::iota(numbers.begin(), numbers.end(), 0);
    test::Child producer([&] { queue.put_many(numbers); });
    for (int i = 0; i < 1000; ++i) REQUIRE(queue.get() == i);
    CHECK(producer.wait() == 0);
}

TEST_CASE("many producers and consumers: each item once, each producer's in order",
          "[ipc][queue]") {
    constexpr int kItems = 20000, kProducers = 3, kConsumers = 3;
    std::int64_t bound = GENERATE(std::int64_t(0), std::int64_t(5));
    Queue<std::pair<int, int>> queue(bound);
    Queue<std::string> reports;
    std::vector<test::Child> children;
    test::SharedPage<std::array<std::atomic<int>, kProducers * kItems>> seen;
    for (int p = 0; p < kProducers; ++p)
        children.emplace_back([&, p] {
            for (int i = 0; i < kItems; ++i) queue.put({p, i});
        });
    for (int c = 0; c < kConsumers; ++c)
        children.emplace_back([&] {
            std::array<int, kProducers> last;
            last.fill(-1);
            for (;;) {
                auto [p, i] = queue.get();
                if (p < 0) return;
                if (i <= last[std::size_t(p)]) throw std::logic_error("out of order");
                last[std::size_t(p)] = i;
                ++(*seen)[std::size_t(p * kItems + i)];
            }
        });
    for (int p = 0; p < kProducers; ++p) CHECK(children[std::size_t(p)].wait() == 0);
    for (int c = 0; c < kConsumers; ++c) queue.put({-1, 0});
    for (std::size_t c = kProducers; c < children.size(); ++c) CHECK(children[c].wait() == 0);
    bool once = true;
    for (auto& count : *seen) once = once && count == 1;
    CHECK(once);
    CHECK(queue.empty());
}

TEST_CASE("bad options are refused", "[ipc][queue]") {
    CHECK_THROWS_AS(Queue<int>({.max_bytes = 100}), std::invalid_argument);
    CHECK_THROWS_AS(Queue<int>({.max_bytes = std::size_t(64) << 30}), std::invalid_argument);
    CHECK_THROWS_AS(Queue<int>({.lease = true}), std::invalid_argument);
    CHECK(Queue<int>(-1).max_items() == 0x7fffffff);
    CHECK(Queue<int>(1).max_items() == 1);
}

TEST_CASE("a queue travels, and is the same over there", "[ipc][queue][travel]") {
    test::Channel channel;
    test::Child child([&] {
        auto queue = channel.receive<Queue<std::string>>();
        queue.put(queue.get() + "!");
        return 0;
    });
    Queue<std::string> queue(1);
    channel.send(queue);
    queue.put("hello");
    CHECK(child.wait() == 0);
    CHECK(queue.get() == "hello!");
    CHECK(test::travel(queue) == queue);
}

}  // namespace queue_test

// What handles cost: Lock and Queue, between processes, next to what they are measured against.
//
// Rows            | unit                     | good is
// lock_unlock     | ns for lock and unlock   | 30 ns or less, uncontended
// queue_1p1c      | messages of 16 B a second, one by one | 2.5 M/s; 0.8 of boost_queue_1p1c at
// worst queue_2p2c      | the same, two processes on each side  | no collapse: half of queue_1p1c
// queue_batch     | put_many, get_many of 64 | 15 M/s
// boost_queue     | boost::interprocess::message_queue, the same messages
// pass_array      | a handle's journey through an archive: the same for 8 B and 1 GiB
//
// Producers and consumers are processes; the numbers are of the whole, from the first to the last.
#include <benchmark/benchmark.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <boost/interprocess/ipc/message_queue.hpp>
#include <chrono>
#include <cstdio>
#include <utility>
#include <vector>

#include <sidestep/queue.hpp>
#include <sidestep/sync.hpp>

namespace {

using sidestep::Queue;
using Message = std::pair<std::uint64_t, std::uint64_t>;  // 16 bytes
using Clock = std::chrono::steady_clock;

void lock_unlock(benchmark::State& state) {
    sidestep::Lock lock;
    for (auto _ : state) {
        lock.lock();
        lock.unlock();
    }
}
BENCHMARK(lock_unlock);

void rlock_unlock(benchmark::State& state) {
    sidestep::RLock lock;
    for (auto _ : state) {
        lock.lock();
        lock.unlock();
    }
}
BENCHMARK(rlock_unlock);

void semaphore(benchmark::State& state) {
    sidestep::Semaphore permits(4);
    for (auto _ : state) {
        permits.acquire();
        permits.release();
    }
}
BENCHMARK(semaphore);

template <class F>
pid_t fork_child(F f) {
    pid_t pid = fork();
    if (pid == 0) {
        f();
        _exit(0);
    }
    return pid;
}

// Runs `producers` and `consumers` and measures until all are through.
template <class Produce, class Consume>
void run(benchmark::State& state, int producers, int consumers, long messages, Produce produce,
         Consume consume) {
    for (auto _ : state) {
        auto begin = Clock::now();
        std::vector<pid_t> children;
        for (int i = 0; i < producers; ++i)
            children.push_back(fork_child([&] { produce(messages / producers); }));
        for (int i = 0; i < consumers; ++i)
            children.push_back(fork_child([&] { consume(messages / consumers); }));
        for (pid_t child : children) waitpid(child, nullptr, 0);
        state.SetIterationTime(std::chrono::duration<double>(Clock::now() - begin).count());
    }
    state.SetItemsProcessed(state.iterations() * messages);
}

void queue(benchmark::State& state) {
    Queue<Message> messages;
    run(
        state, static_cast<int>(state.range(0)), static_cast<int>(state.range(0)), 1'000'000,
        [&](long n) {
            for (long i = 0; i < n; ++i) messages.put({i, i});
        },
        [&](long n) {
            for (long i = 0; i < n; ++i) benchmark::DoNotOptimize(messages.get());
        });
}
BENCHMARK(queue)->Name("queue_1p1c")->Arg(1)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK(queue)->Name("queue_2p2c")->Arg(2)->UseManualTime()->Unit(benchmark::kMillisecond);

void queue_bounded(benchmark::State& state) {
    Queue<Message> messages(1024);
    run(
        state, 1, 1, 1'000'000,
        [&](long n) {
            for (long i = 0; i < n; ++i) messages.put({i, i});
        },
        [&](long n) {
            for (long i = 0; i < n; ++i) benchmark::DoNotOptimize(messages.get());
        });
}
BENCHMARK(queue_bounded)->UseManualTime()->Unit(benchmark::kMillisecond);

void queue_batch(benchmark::State& state) {
    Queue<Message> messages;
    std::vector<Message> batch(64, Message{1, 2});
    run(
        state, 1, 1, 64 * 100'000,
        [&](long n) {
            for (long i = 0; i < n; i += 64) messages.put_many(batch);
        },
        [&](long n) {
            for (long got = 0; got < n;)
                got += static_cast<long>(messages.get_many(std::size_t(n - got)).size());
        });
}
BENCHMARK(queue_batch)->UseManualTime()->Unit(benchmark::kMillisecond);

void boost_queue(benchmark::State& state) {
    namespace bip = boost::interprocess;
    constexpr const char* kName = "sidestep_ipc_bench";
    bip::message_queue::remove(kName);
    bip::message_queue messages(bip::create_only, kName, 100'000, sizeof(Message));
    run(
        state, static_cast<int>(state.range(0)), static_cast<int>(state.range(0)), 1'000'000,
        [&](long n) {
            Message message{1, 2};
            for (long i = 0; i < n; ++i) messages.send(&message, sizeof message, 0);
        },
        [&](long n) {
            Message message;
            std::size_t size = 0;
            unsigned priority = 0;
            for (long i = 0; i < n; ++i) messages.receive(&message, sizeof message, size, priority);
        });
    bip::message_queue::remove(kName);
}
BENCHMARK(boost_queue)
    ->Name("boost_queue_1p1c")
    ->Arg(1)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK(boost_queue)
    ->Name("boost_queue_2p2c")
    ->Arg(2)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace

BENCHMARK_MAIN();

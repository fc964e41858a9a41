// Queue and what else carries messages of 16 bytes from process to process, one by one unless it
// says otherwise. NAME/N: N producers and N consumers; messages per second of all.
//
//   queue/N      ours                                                      (good: 3 M/s with 1)
//   bounded/1    ours, with 1024 items at most
//   batch/N      put_many and get_many of 64                               (good: 20 M/s with 1)
//   pipe/N       write(2) and read(2) of 16 bytes: what the kernel offers
//   boost/N      boost::interprocess::message_queue (it hangs after a kill)
//   zeromq/1     PUSH and PULL over ipc: (ipc_peers_zeromq.cpp, built where libzmq is found)
//   iceoryx/1    publisher and subscriber, blocking (ipc_peers_iceoryx.cpp, built where it is
//   found)
#include <fcntl.h>

#include <boost/interprocess/ipc/message_queue.hpp>

#include <sidestep/init.hpp>
#include <sidestep/queue.hpp>

#include "queue_run.hpp"

namespace {

using bench::Message;
using bench::run_processes;

double run_queue(sidestep::Queue<Message> queue, long count, long messages) {
    return run_processes(
        count, messages,
        [&](long n) {
            for (long i = 0; i < n; ++i) queue.put({std::uint64_t(i), std::uint64_t(i)});
        },
        [&](long n) {
            for (long i = 0; i < n; ++i) benchmark::DoNotOptimize(queue.get());
        });
}

double run_unbounded(long count, long messages) {
    return run_queue(sidestep::Queue<Message>(), count, messages);
}

double run_bounded(long count, long messages) {
    return run_queue(sidestep::Queue<Message>(1024), count, messages);
}

double run_batches(long count, long messages) {
    sidestep::Queue<Message> queue;
    std::vector<Message> batch(64, Message{1, 2});
    return run_processes(
        count, messages,
        [&](long n) {
            for (long i = 0; i < n; i += 64) queue.put_many(batch);
        },
        [&](long n) {
            for (long got = 0; got < n;)
                got += static_cast<long>(queue.get_many(std::size_t(n - got)).size());
        });
}

// Messages are shorter than PIPE_BUF: neither side ever sees a part of one.
double run_pipe(long count, long messages) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return 0;
    double time = run_processes(
        count, messages,
        [&](long n) {
            Message message{1, 2};
            for (long i = 0; i < n && write(fds[1], &message, sizeof message) > 0; ++i) continue;
        },
        [&](long n) {
            Message message;
            for (long i = 0; i < n && read(fds[0], &message, sizeof message) > 0; ++i) continue;
        });
    close(fds[0]);
    close(fds[1]);
    return time;
}

double run_boost(long count, long messages) {
    namespace bip = boost::interprocess;
    std::string name = "sidestep_queue_bench_" + std::to_string(getpid());
    bip::message_queue queue(bip::create_only, name.c_str(), bench::kQueueLimit, sizeof(Message));
    double time = run_processes(
        count, messages,
        [&](long n) {
            Message message{1, 2};
            for (long i = 0; i < n; ++i) queue.send(&message, sizeof message, 0);
        },
        [&](long n) {
            Message message;
            std::size_t size = 0;
            unsigned priority = 0;
            for (long i = 0; i < n; ++i) queue.receive(&message, sizeof message, size, priority);
        });
    bip::message_queue::remove(name.c_str());
    return time;
}

}  // namespace

int main(int argc, char** argv) {
    sidestep::init();
    for (long count : {1, 2, 4}) {
        bench::add_queue("queue", count, run_unbounded);
        bench::add_queue("batch", count, run_batches, 64 * 4 * 10'000);
        bench::add_queue("pipe", count, run_pipe);
        bench::add_queue("boost", count, run_boost);
    }
    bench::add_queue("bounded", 1, run_bounded);
    return bench::run_all(argc, argv);
}

// A queue that ends when its last producer leaves.
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>

#include <numeric>
#include <thread>

#include <catch2/catch.hpp>

#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/pool.hpp>

#include "process_support.hpp"
#include "processes.hpp"
#include "sandbox.hpp"

namespace queue_producer_test {

using sidestep::Event;
using sidestep::JoinableQueue;
using sidestep::Process;
using sidestep::ProcessOptions;
using sidestep::PutAfterShutDown;
using sidestep::Queue;
using sidestep::QueueClosed;
using sidestep::QueueShutDown;
using namespace std::chrono_literals;

namespace {

using Lines = Queue<std::string>;
using Numbers = Queue<int>;

void produce(Lines::Producer out, int from, int to) {
    for (int i = from; i < to; ++i) out.put("line " + std::to_string(i));
}
void parse(Lines in, Numbers::Producer out) {
    try {
        for (;;) out.put(std::stoi(in.get().substr(5)));
    } catch (const QueueShutDown&) {
    }
}
void put_and_be_killed(Numbers::Producer out) {
    out.put(1);
    ::raise(SIGKILL);
}
void put_until_told(Numbers::Producer out, Event stop) {
    out.put(1);
    stop.wait();
}

void put_some(Numbers::Producer out, int count) {
    for (int i = 0; i < count; ++i) out.put(i);
}

std::vector<int> all_of(Numbers& queue) {
    std::vector<int> items;
    try {
        for (;;) {
            auto item = queue.get_for(test::kPatience);
            if (!item) return {};
            items.push_back(*item);
        }
    } catch (const QueueShutDown&) {
    }
    return items;
}

}  // namespace

TEST_CASE("a pipeline of several processes a stage ends by itself, and loses nothing",
          "[ipc][queue][producer]") {
    FOR_EACH_START_METHOD();
    Lines lines(4);
    Numbers numbers(4);
    std::vector<Process> all;
    ProcessOptions options = {.start_method = method};
    for (int i = 0; i < 2; ++i)
        all.emplace_back(options, produce, lines.producer(), 100 * i, 100 * (i + 1));
    for (int i = 0; i < 3; ++i) all.emplace_back(options, parse, lines, numbers.producer());
    for (Process& process : all) process.start();
    std::vector<int> items = all_of(numbers);
    CHECK(items.size() == 200);
    CHECK(std::accumulate(items.begin(), items.end(), 0) == 19900);
    for (Process& process : all) process.join();
    for (Process& process : all) CHECK(process.exitcode() == 0);
}

TEST_CASE("who puts after the end loses no item in silence", "[ipc][queue][producer]") {
    Numbers queue;
    auto producer = queue.producer();
    producer.put(1);
    queue.put(2);  // the queue's own put() counts for nothing
    producer.close();
    CHECK(producer.closed());
    CHECK_THROWS_AS(producer.put(3), QueueClosed);
    CHECK_THROWS_AS(queue.put(3), PutAfterShutDown);
    CHECK_THROWS_WITH(queue.put(3), Catch::Contains("its last producer has left"));
    CHECK_THROWS_AS(queue.producer(), PutAfterShutDown);
    CHECK(queue.get() == 1);
    CHECK(queue.get() == 2);
    CHECK_THROWS_AS(queue.get(), QueueShutDown);
    CHECK_THROWS_AS(queue.try_get(), QueueShutDown);
    Numbers other;
    other.shut_down();
    CHECK_THROWS_WITH(other.put(1), Catch::Contains("let each hold a producer()"));
}

TEST_CASE("a queue goes on while any producer is there, wherever, and on its way",
          "[ipc][queue][producer]") {
    Numbers queue;
    test::Channel channel;
    {
        auto producer = queue.producer();
        channel.send(producer);
    }
    CHECK_FALSE(queue.try_get());  // in the socket
    auto arrived = channel.receive<Numbers::Producer>();
    auto copy = arrived;
    arrived.close();
    copy.put(7);
    CHECK(queue.get() == 7);
    CHECK_FALSE(queue.try_get());
    auto second = queue.producer();
    copy = second;
    CHECK_FALSE(queue.try_get());
    copy.close();
    second.close();
    CHECK_THROWS_AS(queue.try_get(), QueueShutDown);
}

TEST_CASE("a producer that is killed has left", "[ipc][queue][producer][kill]") {
    FOR_EACH_START_METHOD();
    Numbers queue;
    Event stop;
    ProcessOptions options = {.start_method = method};
    Process victim(options, put_and_be_killed, queue.producer());
    Process other(options, put_until_told, queue.producer(), stop);
    victim.start();
    other.start();
    victim.join();
    CHECK(queue.get_for(test::kPatience) == 1);
    CHECK(queue.get_for(test::kPatience) == 1);
    CHECK_FALSE(queue.get_for(150ms));  // the other is there
    stop.set();
    CHECK_THROWS_AS(queue.get_for(test::kPatience), QueueShutDown);
    other.join();
}

TEST_CASE("who waits for an item learns of the end, whether the last producer left or was killed",
          "[ipc][queue][producer][kill]") {
    bool killed = GENERATE(false, true);
    Numbers queue;
    auto producer = queue.producer();
    Event has_one, leave;
    test::Child child([&] {
        auto own = queue.producer();
        has_one.set();
        leave.wait();
    });
    REQUIRE(has_one.wait_for(test::kPatience));
    producer.close();
    std::atomic<bool> ended{false};
    std::thread consumer([&] {
        try {
            (void)queue.get();
        } catch (const QueueShutDown&) {
            ended = true;
        }
    });
    if (killed)
        child.kill();
    else
        leave.set();
    consumer.join();
    CHECK(ended);
    if (!killed) CHECK(child.wait() == 0);
}

TEST_CASE("a forked child's copy of a producer counts for nothing, and says so",
          "[ipc][queue][producer]") {
    Numbers queue;
    auto producer = queue.producer();
    Event go_on;
    test::Child child([&] {
        try {
            producer.put(1);
        } catch (const QueueClosed&) {
            go_on.wait();
            return 0;
        }
        return 1;
    });
    producer.close();
    CHECK_THROWS_AS(queue.get_for(test::kPatience), QueueShutDown);  // while the child lives
    go_on.set();
    CHECK(child.wait() == 0);
}

TEST_CASE("a joinable queue has producers too, and a polled one tells of the end",
          "[ipc][queue][producer]") {
    JoinableQueue<int> queue;
    auto producer = queue.producer();
    CHECK(producer.try_put(1));
    CHECK(producer.put_for(2, 1s));
    producer.put_many(std::vector<int>{3, 4});
    CHECK(queue.get_many(9) == std::vector<int>{1, 2, 3, 4});
    pollfd entry = {.fd = queue.fd(), .events = POLLIN, .revents = 0};
    CHECK(::poll(&entry, 1, 0) == 0);
    producer.close();
    CHECK(::poll(&entry, 1, 60'000) == 1);
    CHECK_THROWS_AS(queue.get(), QueueShutDown);
}

TEST_CASE("a task of a pool takes a producer, and the queue ends with the pool at the latest",
          "[ipc][queue][producer]") {
    auto method = GENERATE(sidestep::StartMethod::spawn, sidestep::StartMethod::fork,
                           sidestep::StartMethod::forkserver);
    INFO("start method " << sidestep::to_string(method));
    test::StopForkServer stop_at_the_end;
    Numbers early, queue;
    auto inherited = early.producer();  // there when the workers are forked
    auto held = queue.producer();       // or the queue might end between two tasks
    {
        sidestep::Pool pool({.processes = 2, .start_method = method});
        std::vector<sidestep::Future<void>> tasks;
        for (int i = 0; i < 4; ++i) tasks.push_back(pool.submit(put_some, queue.producer(), 25));
        for (auto& task : tasks) task.get();
        inherited.close();
        held.close();
        CHECK_THROWS_AS(early.get_for(test::kPatience), QueueShutDown);
    }
    CHECK(all_of(queue).size() == 100);
}

TEST_CASE("another file's descriptor is no producer", "[ipc][queue][producer]") {
    Numbers queue, other;
    auto producer = other.producer();
    sidestep::detail::HeapBuffer buffer;
    test::FdCollector fds;
    sidestep::OutputArchive archive(buffer, &fds);
    archive(queue);
    queue.save(archive);
    std::vector<sidestep::Fd> own;
    for (int fd : fds.fds) own.push_back(sidestep::Fd::duplicate_of(fd));
    std::uint64_t number = 1;  // the timer
    archive(number);
    test::FdDealer dealer(std::move(own));
    sidestep::InputArchive input(buffer.bytes(), &dealer);
    Numbers copy{sidestep::detail::Blank{}};
    input(copy);
    Numbers::Producer arrived{sidestep::detail::Blank{}};
    CHECK_THROWS_AS(input(arrived), sidestep::SerializationError);
    CHECK_THROWS_AS(arrived.put(1), QueueClosed);
}

// Who shares a queue sets its descriptor, drains it and makes it blocking between any two
// instructions of a call.
TEST_CASE("whatever others do to a queue's descriptor meanwhile, no call waits for them",
          "[ipc][queue]") {
    Numbers queue;
    int fd = queue.fd();
    test::SharedPage<std::atomic<int>> turns;
    test::Child other([&] {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        sidestep::sys::set_nonblocking(fd, false);
        itimerspec past = {.it_interval = {}, .it_value = {.tv_sec = 0, .tv_nsec = 1}}, none = {};
        for (;; ++*turns) {
            std::uint64_t word = 0xfffffffffffffffe;
            ::timerfd_settime(fd, 0, *turns % 2 == 0 ? &past : &none, nullptr);
            pollfd entry = {.fd = fd, .events = POLLIN | POLLOUT, .revents = 0};
            if (::poll(&entry, 1, 0) <= 0) continue;
            if (entry.revents & POLLOUT) (void)!::write(fd, &word, sizeof word);
            if (entry.revents & POLLIN) (void)!::read(fd, &word, sizeof word);
        }
    });
    test::Child user([&] {
        ::alarm(60);
        for (int i = 0; i < 20'000 || *turns < 20'000; ++i) {
            queue.put(i);
            if (queue.get() != i) return 1;
        }
        queue.shut_down();
        return 0;
    });
    CHECK(user.wait() == 0);
}

TEST_CASE("a producer that cannot be made says why, and blames /proc where it is away alone",
          "[queue][producer]") {
    auto makes_none = [](const char* has, bool says_proc) {
        Numbers queue(4);
        try {
            (void)queue.producer();
            return 1;
        } catch (const std::system_error& error) {
            const std::string text = error.what();
            if (text.find(has) == std::string::npos) return 2;
            return (text.find("needs /proc") != std::string::npos) == says_proc ? 0 : 3;
        }
    };
    CHECK(test::without_proc([&] { return makes_none("No such file", true); }) == 0);
    CHECK(test::where_refused({{SYS_openat, EMFILE}},
                              [&] { return makes_none("Too many open files", false); }) == 0);
}

}  // namespace queue_producer_test

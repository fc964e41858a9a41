// Many calls in flight at a ManagerServer: they are sent, and answered, several at a time.
#include <catch2/catch.hpp>

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <iterator>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <sidestep/manager.hpp>
#include <sidestep/shared_memory.hpp>

#include "remote_support.hpp"
#include "support.hpp"

namespace in_flight_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

constexpr int kCalls = 1000;
constexpr std::chrono::milliseconds kLong = 10min;

// What calls leave behind, whatever becomes of their server. Relaxed: each word stands alone.
struct Marks {
    std::atomic<int> ran[kCalls] = {};
    std::atomic<int> released{0};  // as many calls that stay
};

class Ledger {
  public:
    void open(std::string name) { memory_ = mp::SharedMemory(mp::open_only, std::move(name)); }
    int note(int n) {
        marks().ran[n] = 1;
        order_.push_back(n);
        return n;
    }
    // Until so many are released.
    int stay(int n, int released) {
        marks().ran[n] = 1;
        return test::eventually([&] { return marks().released >= released; }) ? n : -1;
    }
    int crash(int n) {
        marks().ran[n] = 1;
        ::kill(::getpid(), SIGKILL);
        return n;
    }
    std::vector<int> order() const { return order_; }

  private:
    Marks& marks() { return *std::launder(reinterpret_cast<Marks*>(memory_.bytes().data())); }
    mp::SharedMemory memory_ = mp::SharedMemory(mp::create_only, sizeof(Marks));
    std::vector<int> order_;
};

constexpr auto kExposeLedger = [](mp::ManagerServer& server) {
    server.expose<&Ledger::open, &Ledger::note, &Ledger::stay, &Ledger::crash, &Ledger::order>(
        "ledger", std::make_shared<Ledger>());
};

// A server, a client, and their marks.
struct Place {
    Place() : marks(*new (memory.bytes().data()) Marks) {
        ledger.call<&Ledger::open>(memory.name());
    }
    mp::SharedMemory memory{mp::create_only, sizeof(Marks)};
    Marks& marks;
    // Without a beat, whose answer would take others along.
    test::RemoteServer server{
        kExposeLedger, GENERATE(mp::Address(mp::UnixAddress{}), mp::Address(mp::TcpAddress{})),
        kLong};
    mp::Manager manager = server.connect(kLong);
    mp::Proxy<Ledger> ledger = manager.get<Ledger>("ledger");

    // The calls of one thread, which does not wait in between.
    void note_many(std::vector<mp::Future<int>>& calls, int begin, int end) const {
        for (int n = begin; n < end; ++n) calls.push_back(ledger.submit<&Ledger::note>(n));
    }
};

}  // namespace

TEST_CASE("calls in flight run once each, and those of a thread in their order",
          "[manager][in_flight]") {
    Place place;
    constexpr int kThreads = 4, kEach = kCalls / kThreads;
    std::vector<std::thread> threads;
    std::atomic<int> wrong{0};
    for (int thread = 0; thread < kThreads; ++thread)
        threads.emplace_back([&, begin = thread * kEach] {
            std::vector<mp::Future<int>> calls;
            place.note_many(calls, begin, begin + kEach);
            for (int n = 0; n < kEach; ++n)
                if (calls[static_cast<std::size_t>(n)].get() != begin + n) ++wrong;
        });
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
    const auto order = place.ledger.call<&Ledger::order>();
    CHECK(order.size() == kCalls);
    for (int thread = 0; thread < kThreads; ++thread) {
        std::vector<int> its;
        std::copy_if(order.begin(), order.end(), std::back_inserter(its),
                     [&](int n) { return n / kEach == thread; });
        CHECK(its.size() == kEach);
        CHECK(std::is_sorted(its.begin(), its.end()));
    }
}

TEST_CASE("a call that was queued behind others is sent, though nobody waits for it",
          "[manager][in_flight]") {
    Place place;
    // Their answers, which nobody reads, each a write of its own, are taken by the kernel. (Of some
    // 280 and more it would not take all, and the server waits to send what is left.)
    constexpr int kSome = 100;
    std::vector<mp::Future<int>> calls;
    place.note_many(calls, 0, kSome);
    CHECK(test::eventually([&] { return place.marks.ran[kSome - 1] != 0; }));
    for (auto& call : calls) (void)call.get();  // else the session lasts until the next beat
}

TEST_CASE("short calls are answered while a long one behind them runs", "[manager][in_flight]") {
    Place place;
    constexpr int kStays = 500;
    std::vector<mp::Future<int>> calls;
    // The others wait for it, so that there are many at once.
    calls.push_back(place.ledger.submit<&Ledger::stay>(0, 1));
    place.note_many(calls, 1, kStays);
    calls.push_back(place.ledger.submit<&Ledger::stay>(kStays, 2));
    place.note_many(calls, kStays + 1, kCalls);
    place.marks.released = 1;
    for (int n = 0; n < kStays; ++n) CHECK(calls[static_cast<std::size_t>(n)].get() == n);
    CHECK_FALSE(calls[kStays].ready());
    CHECK(place.marks.ran[kStays + 1] == 0);
    place.marks.released = 2;
    for (int n = kStays; n < kCalls; ++n) CHECK(calls[static_cast<std::size_t>(n)].get() == n);
}

TEST_CASE("when a server dies with calls in flight, no call that ran is said not to have begun",
          "[manager][in_flight][death]") {
    const int last = GENERATE(1, 2, 7, 100, 499);
    Place place;
    std::vector<mp::Future<int>> calls;
    calls.push_back(place.ledger.submit<&Ledger::stay>(0, 1));
    place.note_many(calls, 1, last);
    calls.push_back(place.ledger.submit<&Ledger::crash>(last));
    place.note_many(calls, last + 1, kCalls);
    place.marks.released = 1;
    int answered = 0, wrong = 0, begun = 0;
    for (std::size_t n = 0; n < calls.size(); ++n) {
        try {
            wrong += calls[n].get() != static_cast<int>(n);
            ++answered;
        } catch (const mp::Disconnected& lost) {
            begun += lost.began();
            wrong += place.marks.ran[n] != 0 && !lost.began();
        }
    }
    INFO(answered << " answered, " << begun << " said to have begun");
    CHECK(wrong == 0);
    CHECK(answered <= last);
    CHECK(begun >= 1);
    // No more than are answered together, and the next one. What TCP has not delivered, nobody
    // knows.
    if (std::holds_alternative<mp::UnixAddress>(place.server.address())) CHECK(begun <= 65);
}

}  // namespace in_flight_test

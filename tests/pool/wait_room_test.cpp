// Who waits for results, and who leads. White box: the class alone, without workers.
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include <catch2/catch.hpp>

#include "dispatch/wait_room.hpp"
#include "support.hpp"

namespace wait_room_test {

using namespace sidestep::detail;
using namespace std::chrono_literals;
using sidestep::ControlPage;
using sidestep::SpinPolicy;

namespace {

// A wait room whose leader always spins: it looks again and again.
class Room final : public Sleepers {
  public:
    Room() {
        spin_.workers = 1;
        spin_.cpus = 64;
        spin_.spin_ns = 3'600'000'000'000;
    }
    void wake_waiters() noexcept override { room.wake_all(); }
    void kick_supervisor() noexcept override {}
    bool is_led() const { return page_.attended.load() == 1; }
    // Whatever a worker wrote there.
    bool is_led_in_truth(std::uint32_t written) {
        page_.attended = written;
        PoolLock lock(mutex);
        room.say_who_attends();
        CHECK(page_.attended.load() <= 1);
        return is_led();
    }
    unsigned followers() {
        PoolLock lock(mutex);
        return room.followers();
    }
    void set(bool& what) {
        PoolLock lock(mutex);
        what = true;
    }

    PoolMutex mutex;
    std::function<bool(Hold&)> drain = [](Hold&) { return false; };

  private:
    ControlPage page_;
    SpinPolicy spin_;

  public:
    WaitRoom room{mutex, *this, page_, spin_, [this](Hold& hold) { return drain(hold); }};
};

}  // namespace

TEST_CASE("who waits alone leads, and looks until its result is there", "[pool][rooms][wait]") {
    Room r;
    int looks = 0;
    bool led = false;
    r.drain = [&](Hold&) {
        led = led || r.is_led();
        return ++looks == 5;
    };
    CHECK(r.room.wait([&] { return looks >= 5; }, {}));
    CHECK(led);
    CHECK_FALSE(r.is_led());
    PoolLock lock(r.mutex);
    CHECK(r.room.is_empty());
}

TEST_CASE("after its deadline a wait has looked once, and is over", "[pool][rooms][wait]") {
    Room r;
    int looks = 0;
    r.drain = [&](Hold&) { return ++looks < 0; };
    CHECK_FALSE(r.room.wait([] { return false; }, std::chrono::steady_clock::now() - 1s));
    CHECK(looks == 1);
    CHECK(r.room.wait([] { return true; }, std::chrono::steady_clock::now() - 1s));
}

TEST_CASE("one thread leads, the next one follows; when the leader goes, the follower leads",
          "[pool][rooms][wait]") {
    Room r;
    bool first = false, second = false;
    std::thread leader([&] { CHECK(r.room.wait([&] { return first; }, {})); });
    CHECK(test::eventually([&] { return r.is_led(); }));
    std::thread follower([&] { CHECK(r.room.wait([&] { return second; }, {})); });
    CHECK(test::eventually([&] { return r.followers() == 1; }));
    r.set(first);
    leader.join();
    CHECK(test::eventually([&] { return r.is_led() && r.followers() == 0; }));
    r.set(second);
    follower.join();
    CHECK_FALSE(r.is_led());
}

TEST_CASE("what the leader's look completes wakes the followers", "[pool][rooms][wait]") {
    Room r;
    bool first = false, second = false, completes = false;
    r.drain = [&](Hold&) { return second = completes; };
    std::thread leader([&] { CHECK(r.room.wait([&] { return first; }, {})); });
    CHECK(test::eventually([&] { return r.is_led(); }));
    std::thread follower([&] { CHECK(r.room.wait([&] { return second; }, {})); });
    CHECK(test::eventually([&] { return r.followers() == 1; }));
    r.set(completes);
    follower.join();
    CHECK(r.is_led());
    r.set(first);
    leader.join();
}

TEST_CASE("a thread whose result comes while it drops something does not go to sleep",
          "[pool][rooms][wait]") {
    Room r;
    std::atomic<bool> slept{false};
    bool first = false, second = false, dropped = false;
    auto main_thread = std::this_thread::get_id();
    // The second result comes when the main thread drops what its look has left, and nobody is a
    // follower who could be told.
    r.drain = [&](Hold& hold) POOL_LOCKED {
        if (std::this_thread::get_id() == main_thread && !std::exchange(dropped, true))
            hold.drop_later({std::shared_ptr<const void>("", [&](const void*) { r.set(second); })});
        return false;
    };
    std::thread leader([&] {
        auto ends = [&]() POOL_LOCKED {
            if (r.room.followers() > 0) slept = true;
            return first || slept;
        };
        CHECK(r.room.wait(ends, {}));
    });
    CHECK(test::eventually([&] { return r.is_led(); }));
    CHECK(r.room.wait([&] { return second; }, {}));
    r.set(first);
    leader.join();
    CHECK_FALSE(slept);
}

TEST_CASE("what a worker wrote of who attends is put right", "[pool][rooms][wait][scribble]") {
    Room r;
    bool ready = false;
    for (std::uint32_t written : {0u, 1u, 7u}) CHECK_FALSE(r.is_led_in_truth(written));
    std::thread leader([&] { CHECK(r.room.wait([&] { return ready; }, {})); });
    CHECK(test::eventually([&] { return r.is_led(); }));
    for (std::uint32_t written : {0u, 1u, 7u}) CHECK(r.is_led_in_truth(written));
    r.set(ready);
    leader.join();
    CHECK_FALSE(r.is_led());
}

TEST_CASE("nobody sleeps but the workers", "[pool][rooms][wait][scribble]") {
    ControlPage page;
    for (std::uint32_t workers : {1u, 2u, 63u, 64u, 65u, 128u, 1024u}) {
        for (std::atomic<std::uint64_t>& word : page.parked) word = 0;
        page.set_parked(workers - 1, true);
        for (std::uint32_t i = workers; i < sidestep::kMaxWorkers; ++i) page.set_parked(i, true);
        CHECK(SpinPolicy{.workers = workers}.awake(page) == workers - 1);
    }
}

}  // namespace wait_room_test

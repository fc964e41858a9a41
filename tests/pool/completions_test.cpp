// Futures in an event loop; member functions as tasks.
#include <poll.h>
#include <catch2/catch.hpp>

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "both_pools.hpp"
#include "pool_cases.hpp"
#include "pool_support.hpp"

namespace completions_test {

namespace mp = sidestep;
using test::Pools;
using test::Processes;
using test::Threads;
using namespace std::chrono_literals;

namespace {

bool readable(int fd, std::chrono::milliseconds within) {
    pollfd waiting{fd, POLLIN, 0};
    return ::poll(&waiting, 1, static_cast<int>(within.count())) == 1;
}

struct Shape {
    virtual ~Shape() = default;
    virtual int corners() const { return 0; }
    int side = 0;
    int area() const { return side * side; }
    int scaled(int factor) { return side *= factor; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(side);
    }
};
struct Colour {
    int red = 1;
    int twice_red() const { return 2 * red; }
    virtual int brighter(int by) const { return red + by; }
    virtual ~Colour() = default;
};
struct Square : Shape, Colour {
    int corners() const override { return 4; }
    int brighter(int by) const override { return side + by; }
};

}  // namespace

POOL_CASE("Composition", "one descriptor for all that is under way", "[both][completions]") {
    TestType t;
    mp::Completions<int> done;
    CHECK_FALSE(readable(done.fd(), 0ms));
    CHECK_FALSE(done.try_next());
    CHECK_FALSE(done.next());  // nothing to wait for
    for (int i = 0; i < 50; ++i) done.add(t.pool.submit(test::add, i, 1), std::uint64_t(i));
    CHECK(done.size() == 50);
    std::set<std::uint64_t> tags;
    while (tags.size() < 50) {
        REQUIRE(readable(done.fd(), 60s));
        while (auto item = done.try_next()) {
            CHECK(item->future.ready());
            CHECK(item->future.get() == static_cast<int>(item->tag) + 1);
            CHECK(tags.insert(item->tag).second);
        }
        CHECK_FALSE((done.size() == 0 && readable(done.fd(), 0ms)));
    }
    CHECK(done.size() == 0);
}

POOL_CASE("Composition", "next() waits; what failed comes as well", "[both][completions]") {
    TestType t;
    mp::Completions<int> done;
    mp::Promise<int> promise;
    done.add(promise.future(), 1);
    done.add(promise.future(), 2);
    CHECK_FALSE(done.next(1ms));
    done.add(t.pool.submit([](int x) -> int { throw std::out_of_range(std::to_string(x)); }, 5));
    auto failed = done.next();
    REQUIRE(failed);
    CHECK(failed->tag == 0);
    CHECK_THROWS_AS(failed->future.get(), std::out_of_range);
    std::thread other([&] { promise.set_value(3); });
    CHECK(done.next()->tag + done.next()->tag == 3);
    other.join();
    CHECK_FALSE(readable(done.fd(), 0ms));
    CHECK_THROWS_AS(done.add(mp::Future<int>()), std::logic_error);
    CHECK(done.size() == 0);
    done.add(promise.future(), 7);  // is done
    CHECK(readable(done.fd(), 0ms));
    mp::Completions<void> gone;  // its tasks go on
    gone.add(t.pool.submit([] {}));
}

POOL_CASE("Composition", "member functions are tasks", "[both][member]") {
    TestType t;
    Square square;
    square.side = 3;
    square.red = 5;
    CHECK(t.pool.submit(&Shape::area, square).get() == 9);
    CHECK(t.pool.submit(&Shape::scaled, square, 2).get() == 6);
    CHECK(t.pool.submit(&Shape::corners, square).get() == 4);  // virtual
    CHECK(t.pool.submit(&Shape::side, square).get() == 3);     // data
    CHECK(t.pool.submit(&Shape::area, std::make_unique<Square>(square)).get() == 9);
    CHECK(t.pool.submit(&Square::twice_red, Square()).get() == 2);  // of its second base
    int (Square::*brighter)(int) const = &Square::brighter;
    int (Square::*adjusted)(int) const = &Colour::brighter;
    CHECK(t.pool.submit(brighter, square, 1).get() == 4);
    CHECK(t.pool.submit(adjusted, square, 1).get() == 4);
    CHECK(t.pool.map(&Shape::area, std::vector<Square>{square, square}) == std::vector{9, 9});
    CHECK(t.pool.submit(mp::bind(&Shape::area, square)).get() == 9);
    CHECK(t.pool.submit(mp::bind(brighter, square), 4).get() == 7);
    auto later = t.pool.submit(
        [](int side) {
            Square s;
            s.side = side;
            return s;
        },
        7);
    CHECK(later.then(&Shape::area).get() == 49);
}

TEST_CASE("a null member pointer is refused, as a null function pointer is", "[pool][member]") {
    mp::Pool pool({.processes = 1});
    CHECK_THROWS(pool.submit(static_cast<int (Shape::*)() const>(nullptr), Square()));
    CHECK_THROWS(pool.submit(static_cast<int (*)()>(nullptr)));
}

}  // namespace completions_test

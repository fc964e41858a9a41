// Actors: what is refused, and what goes wrong in a start, a restart or a checkpoint.
#include <catch2/catch.hpp>

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>

#include "manager_support.hpp"
#include "process_support.hpp"
#include "support.hpp"

namespace actor_restart_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using namespace std::chrono_literals;
using test::text_of_error;

namespace {

class Fragile {
  public:
    // From the second time on it throws.
    explicit Fragile(mp::Event started = mp::Event()) {
        if (started.is_set()) throw std::runtime_error("once is enough");
        started.set();
    }
    int add(int n) { return sum_ += n; }
    int sum() const { return sum_; }
    void crash() { std::abort(); }
    int read_and_write(mp::Proxy<Fragile> self) const { return self.call<&Fragile::add>(1); }
    int read_twice(mp::Proxy<Fragile> self) const { return self.read<&Fragile::sum>(); }
    int call_itself(mp::Proxy<Fragile> self) { return add(1) + self.call<&Fragile::add>(1); }

    void save(mp::OutputArchive& archive) const {
        if (sum_ < 0) throw std::range_error("no negative checkpoints");
        archive(sum_);
    }
    void load(mp::InputArchive& archive) {
        archive(sum_);
        if (sum_ == 13) throw std::range_error("an unlucky checkpoint");
    }

  private:
    int sum_ = 0;
};

// Dies as often as it is made, but for the first time.
struct Mayfly {
    explicit Mayfly(mp::Event made) {
        if (made.is_set()) ::kill(::getpid(), SIGKILL);
        made.set();
    }
    void die() { ::kill(::getpid(), SIGKILL); }
};

struct Text {
    std::string text;
    void set(std::string t) { text = std::move(t); }
    std::string get() const { return text; }
    void crash() { std::abort(); }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(text);
    }
};

struct Holder {
    explicit Holder(mp::Connection connection = {}) : kept(std::move(connection)) {}
    void say(std::string text) { kept.send(text); }
    void crash() { std::abort(); }
    mp::Connection kept;
};

struct WithHandle {
    int count = 0;
    mp::Event event;
    int add() { return ++count; }
    int get() const { return count; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(count, event);
    }
};

}  // namespace

TEST_CASE("a constructor that throws in a restart is a death, and the last one says so",
          "[manager][actor][restart]") {
    mp::Actor<Fragile> actor({.max_restarts = 2}, mp::Event());
    CHECK_THROWS_AS(actor.call<&Fragile::crash>(), mp::ActorLost);
    CHECK_THAT(
        text_of_error([&] { actor.call<&Fragile::sum>(); }),
        Contains("exited with code 1 before it began actor_restart_test::Fragile::sum() const") &&
            Contains("its constructor threw: once is enough") && Contains("max_restarts is 2"));
    CHECK(actor.restarts() == 2);
    CHECK_FALSE(actor.is_alive());
}

TEST_CASE("a checkpoint that cannot be written is thrown by the call, and the former one stays",
          "[manager][actor][restart]") {
    mp::Actor<Fragile> actor({.max_restarts = 1, .checkpoint_every = 1});
    CHECK(actor.call<&Fragile::add>(5) == 5);
    CHECK_THROWS_AS(actor.call<&Fragile::add>(-10), std::range_error);
    CHECK(actor.call<&Fragile::sum>() == -5);
    CHECK_THROWS_AS(actor.call<&Fragile::crash>(), mp::ActorLost);
    CHECK(actor.call<&Fragile::sum>() == 5);
}

TEST_CASE("a const call that changes its object by its own proxy makes a checkpoint",
          "[manager][actor][restart]") {
    mp::Actor<Fragile> actor({.max_restarts = 2, .checkpoint_every = 1});
    CHECK(actor.call<&Fragile::read_and_write>(actor.proxy()) == 1);
    CHECK_THROWS_AS(actor.call<&Fragile::crash>(), mp::ActorLost);
    CHECK(actor.call<&Fragile::sum>() == 1);
    CHECK(actor.read<&Fragile::read_and_write>(actor.proxy()) == 2);
    CHECK_THROWS_AS(actor.call<&Fragile::crash>(), mp::ActorLost);
    CHECK(actor.call<&Fragile::sum>() == 2);
}

TEST_CASE("a handle in a checkpoint is refused, and the call is made",
          "[manager][actor][restart]") {
    mp::Actor<WithHandle> actor({.max_restarts = 1, .checkpoint_every = 1});
    CHECK_THROWS_AS(actor.call<&WithHandle::add>(), mp::SerializationError);
    CHECK(actor.call<&WithHandle::get>() == 1);
}

TEST_CASE("a checkpoint that cannot be read back is a death", "[manager][actor][restart]") {
    mp::Actor<Fragile> actor({.max_restarts = 1, .checkpoint_every = 1});
    CHECK(actor.call<&Fragile::add>(13) == 13);
    CHECK_THROWS_AS(actor.call<&Fragile::crash>(), mp::ActorLost);
    CHECK_THAT(text_of_error([&] { actor.call<&Fragile::sum>(); }),
               Contains("its constructor threw: an unlucky checkpoint"));
}

TEST_CASE("a large checkpoint, and then a small one, are read back as they were",
          "[manager][actor][restart]") {
    mp::Actor<Text> actor({.max_restarts = 3, .checkpoint_every = 1});
    const std::string large(3 << 20, 'x'), larger(5 << 20, 'y');
    for (const std::string& text : {large, std::string("small"), larger}) {
        actor.call<&Text::set>(std::string("former"));
        actor.call<&Text::set>(text);
        CHECK_THROWS_AS(actor.call<&Text::crash>(), mp::ActorLost);
        CHECK(actor.call<&Text::get>() == text);
    }
}

TEST_CASE("an actor calls itself; one that reads may not change itself", "[manager][actor]") {
    mp::Actor<Fragile> actor({.readers = 2});
    CHECK(actor.call<&Fragile::call_itself>(actor.proxy()) == 3);
    CHECK(actor.read<&Fragile::read_twice>(actor.proxy()) == 2);
    CHECK_THAT(text_of_error([&] { (void)actor.read<&Fragile::read_and_write>(actor.proxy()); }),
               Contains("only reads"));
    CHECK(actor.call<&Fragile::read_and_write>(actor.proxy()) == 3);
    // With one reader, that is a call like any other.
    mp::Actor<Fragile> single;
    CHECK(single.read<&Fragile::read_and_write>(single.proxy()) == 1);
}

TEST_CASE("the end of a process cannot be waited for within it", "[manager][actor]") {
    mp::Actor<Fragile> actor;
    CHECK_THROWS_AS(
        actor.call([](Fragile&, mp::Proxy<Fragile> self) { (void)self.death(); }, actor.proxy()),
        std::logic_error);
    CHECK_THROWS_AS(mp::Proxy<Fragile>().death(), std::logic_error);
    CHECK_THROWS_AS(mp::Proxy<Fragile>().try_submit<&Fragile::add>(1), std::logic_error);
}

TEST_CASE("an actor is not forked beside threads of others", "[manager][actor]") {
    mp::Event end;
    std::thread other([&] { end.wait(); });
    CHECK_THAT(
        text_of_error([] { mp::Actor<Fragile> actor({.start_method = mp::StartMethod::fork}); }),
        Contains("an actor cannot be forked"));
    end.set();
    other.join();
}

TEST_CASE("handles among the constructor's arguments are the same ones after a restart",
          "[manager][actor][restart]") {
    FOR_EACH_START_METHOD();
    auto [here, there] = mp::Pipe();
    mp::Actor<Holder> actor({.start_method = method, .max_restarts = 1}, std::move(there));
    actor.call<&Holder::say>("one");
    CHECK(here.recv<std::string>() == "one");
    CHECK_THROWS_AS(actor.call<&Holder::crash>(), mp::ActorLost);
    actor.call<&Holder::say>("two");
    CHECK(here.recv<std::string>() == "two");
}

TEST_CASE("an actor that dies again and again is started at longer and longer intervals",
          "[manager][actor][restart]") {
    constexpr unsigned kMany = 8;
    mp::Actor<Mayfly> actor({.max_restarts = kMany}, mp::Event());
    const auto begin = std::chrono::steady_clock::now();
    CHECK_THROWS_AS(actor.call<&Mayfly::die>(), mp::ActorLost);
    CHECK(test::eventually([&] { return !actor.is_alive(); }));
    CHECK(actor.restarts() == kMany);
    // The first at once, then 10, 20, ... ms later: never less than that.
    CHECK(std::chrono::steady_clock::now() - begin >= 10ms * ((1 << (kMany - 1)) - 1));
}

TEST_CASE("the owner ends an actor that is between two starts", "[manager][actor][restart]") {
    mp::Actor<Mayfly> actor({.max_restarts = 1'000'000}, mp::Event());
    auto dies = actor.submit<&Mayfly::die>();
    CHECK(test::eventually([&] { return actor.restarts() >= 6; }));
    actor.shutdown();
    CHECK_FALSE(actor.is_alive());
    CHECK_THROWS_AS(dies.get(), mp::ActorLost);
}

}  // namespace actor_restart_test

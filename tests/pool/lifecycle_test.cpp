// What a pool still takes, in each of its states. White box: the class alone, without a pool.
#include <exception>
#include <stdexcept>
#include <string>

#include <catch2/catch.hpp>

#include <sidestep/pool_errors.hpp>

#include "life/lifecycle.hpp"

namespace lifecycle_test {

namespace mp = sidestep;
using mp::detail::Lifecycle;

namespace {

// Why the pool takes no task; empty: it takes it.
std::string refusal(const Lifecycle& life, bool begun) {
    try {
        life.require_accepting(begun);
        return "";
    } catch (const mp::CancelledError& error) {
        return std::string("cancelled: ") + error.what();
    } catch (const std::logic_error& error) {
        return std::string("misuse: ") + error.what();
    } catch (const mp::BrokenPool& error) {
        return std::string("broken: ") + error.what();
    }
}

using Catch::StartsWith;
constexpr bool kNew = false, kBegun = true;

std::exception_ptr broken(const char* why) { return std::make_exception_ptr(mp::BrokenPool(why)); }

}  // namespace

TEST_CASE("a running pool takes everything", "[pool][rooms][lifecycle]") {
    Lifecycle life;
    CHECK(refusal(life, kNew) == "");
    CHECK(refusal(life, kBegun) == "");
    CHECK(life.running());
    CHECK(life.allows_retries());
}

TEST_CASE("a closed pool takes what belongs to maps that were begun, until it is sealed",
          "[pool][rooms][lifecycle]") {
    Lifecycle life;
    life.close();
    CHECK(life.closed());
    CHECK(life.allows_retries());
    CHECK_THAT(refusal(life, kNew), StartsWith("misuse: the pool is closed"));
    CHECK(refusal(life, kBegun) == "");
    life.seal();
    CHECK_THAT(refusal(life, kBegun), StartsWith("misuse: the pool is closed"));
}

TEST_CASE("maps that were begun can be cancelled without ending the pool",
          "[pool][rooms][lifecycle]") {
    Lifecycle life;
    life.cancel_maps();
    CHECK(refusal(life, kBegun) == "");
    life.close();
    CHECK_THAT(refusal(life, kBegun), StartsWith("cancelled: the map was cancelled"));
}

TEST_CASE("an interrupted pool finishes what runs, and neither takes nor retries anything",
          "[pool][rooms][lifecycle]") {
    Lifecycle life;
    CHECK(life.interrupt());
    CHECK(life.closed());
    CHECK_FALSE(life.ending());
    CHECK_FALSE(life.allows_retries());
    CHECK_THAT(refusal(life, kNew), StartsWith("cancelled: the pool was interrupted"));
    CHECK_THAT(refusal(life, kBegun), StartsWith("cancelled: the pool was interrupted"));
}

TEST_CASE("a terminated pool takes nothing, and nothing but breaking changes that",
          "[pool][rooms][lifecycle]") {
    Lifecycle life;
    CHECK(life.terminate());
    CHECK_FALSE(life.terminate());
    CHECK_FALSE(life.interrupt());
    life.close();
    CHECK(life.ending());
    CHECK_FALSE(life.closed());
    CHECK_FALSE(life.allows_retries());
    CHECK_THAT(refusal(life, kNew), StartsWith("misuse: the pool is terminated"));
    CHECK_THAT(refusal(life, kBegun), StartsWith("cancelled: the item was cancelled"));
    life.break_down(broken("its disk is gone"));
    CHECK(refusal(life, kNew) == "broken: its disk is gone");
}

TEST_CASE("a broken pool says why, whatever was asked of it before or after",
          "[pool][rooms][lifecycle]") {
    Lifecycle life;
    life.interrupt();
    life.break_down(broken("first"));
    CHECK_FALSE(life.terminate());
    life.close();
    CHECK(life.broken());
    CHECK(life.ending());
    CHECK(refusal(life, kNew) == "broken: first");
    CHECK(refusal(life, kBegun) == "broken: first");
}

TEST_CASE("join() waits for maps, unless the pool is ending", "[pool][rooms][lifecycle]") {
    Lifecycle life;
    CHECK_FALSE(life.waits_for_maps());
    life.begin_map();
    life.begin_map();
    life.close();
    CHECK(life.waits_for_maps());
    CHECK_FALSE(life.end_map());
    CHECK(life.waits_for_maps());
    life.begin_map();
    life.terminate();
    CHECK_FALSE(life.waits_for_maps());
    CHECK_FALSE(life.end_map());
    CHECK(life.end_map());
}

}  // namespace lifecycle_test

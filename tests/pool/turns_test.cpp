// Which threads of a ThreadPool may run jobs, and whether these are tiny. White box.
#include <chrono>

#include <catch2/catch.hpp>

#include "threads/job_pace.hpp"
#include "threads/turns.hpp"

namespace turns_test {

using namespace sidestep::detail;
using namespace std::chrono_literals;

TEST_CASE("as many threads run as were asked for, beside those that wait", "[pool][rooms][turns]") {
    Turns turns(2);
    turns.begin_run(0);
    CHECK(turns.may_run(1));
    turns.begin_run(1);
    CHECK_FALSE(turns.may_run(2));
    CHECK_FALSE(turns.any_waits());
    turns.begin_wait();
    CHECK(turns.any_waits());
    CHECK(turns.most() == 3);
    CHECK(turns.may_run(2));
    turns.begin_run(2);
    CHECK_FALSE(turns.may_run(3));
    turns.end_wait();
    CHECK(turns.most() == 2);
    turns.end_run(1);
    CHECK_FALSE(turns.may_run(1));  // it pauses: the one that waited goes on, and its extra thread
    turns.end_run(2);
    CHECK(turns.may_run(1));
    CHECK_FALSE(turns.may_run(2));
}

TEST_CASE("an extra thread runs only in the place of one that waits", "[pool][rooms][turns]") {
    Turns turns(2);
    CHECK_FALSE(turns.may_run(2));  // though nobody runs
    turns.begin_run(0);
    turns.begin_wait();
    CHECK(turns.may_run(2));
    turns.begin_run(2);
    CHECK_FALSE(turns.may_run(3));
    CHECK(turns.may_run(1));
    turns.end_run(2);
    CHECK(turns.may_run(3));
}

TEST_CASE("jobs are taken for tiny after many tiny ones, until one is long",
          "[pool][rooms][job_pace]") {
    JobPace pace;
    pace.note(63, 63ns);
    CHECK_FALSE(pace.all_tiny());
    pace.note(1, 1ns);
    CHECK(pace.all_tiny());
    pace.note(1000, 1us);
    CHECK(pace.all_tiny());
    pace.note(2, 1s);
    CHECK_FALSE(pace.all_tiny());
    pace.note(63, 63ns);
    CHECK_FALSE(pace.all_tiny());
}

}  // namespace turns_test

// The matrix of CPython's ExecutorDeadlockTest: whatever misbehaves {task serialize, task
// deserialize, run, result serialize, result deserialize}, in whichever way {throws, exits,
// crashes}, in submit, map and stream: the item fails, its neighbours do not, and nothing hangs.
//
// To exit or crash while a task is serialized, or a result deserialized, ends the application: that
// is run in a program of its own.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "policy_support.hpp"

namespace deadlock_test {

namespace mp = sidestep;
using test::get;
using test::methods;

namespace {

enum Place { task_save, task_load, run, result_save, result_load };
enum Deed { throws, exits, crashes };

void misbehave(int deed) {
    if (deed == throws) throw std::underflow_error("misbehaved");
    if (deed == exits) std::exit(1);
    test::die(SIGSEGV);
}

// An argument or result that misbehaves when it is saved or loaded.
struct Trap {
    int value = 0, place = -1, deed = 0;  // place: -1 is good
    void spring(int here) const {
        if (place == here) misbehave(deed);
    }
};
struct Argument : Trap {
    template <class Archive>
    void save(Archive& archive) const {
        spring(task_save);
        archive(value, place, deed);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value, place, deed);
        spring(task_load);
    }
};
struct Answer : Trap {
    template <class Archive>
    void save(Archive& archive) const {
        spring(result_save);
        archive(value, place, deed);
    }
    template <class Archive>
    void load(Archive& archive) {
        archive(value, place, deed);
        spring(result_load);
    }
};
Answer answer(const Argument& argument) {
    argument.spring(run);
    Answer result;
    static_cast<Trap&>(result) = argument;
    result.value = 10 * argument.value;
    return result;
}

std::vector<Argument> with_one_bad(Place place, Deed deed) {
    std::vector<Argument> items(12);
    for (std::size_t i = 0; i < items.size(); ++i) items[i].value = static_cast<int>(i);
    items[5].place = place;
    items[5].deed = deed;
    return items;
}

bool is_expected(const std::exception_ptr& error, Deed deed) {
    try {
        std::rethrow_exception(error);
    } catch (const std::underflow_error&) {
        return deed == throws;
    } catch (const mp::WorkerLost& lost) {
        return deed == exits ? lost.exit_status().code() == 1
                             : deed == crashes && lost.exit_status().signal() == SIGSEGV;
    } catch (...) {
        return false;
    }
}

void check_submit(mp::Pool& pool, Place place, Deed deed) {
    std::vector<mp::Future<Answer>> futures;
    std::size_t refused = 0;
    for (const Argument& item : with_one_bad(place, deed)) {
        try {
            futures.push_back(pool.submit(answer, item));
        } catch (const std::underflow_error&) {
            ++refused;
        }
    }
    CHECK(refused == (place == task_save ? 1 : 0));
    for (std::size_t i = 0; i < futures.size(); ++i) {
        bool bad = place != task_save && i == 5;
        try {
            Answer value = get(futures[i]);  // outside of CHECK, which would catch
            CHECK(value.value % 10 == 0);
            CHECK_FALSE(bad);
        } catch (const std::exception&) {
            CHECK(bad);
            CHECK(is_expected(std::current_exception(), deed));
        }
    }
}

void check_map(mp::Pool& pool, Place place, Deed deed) {
    auto map = pool.map_async(answer, with_one_bad(place, deed), {.chunksize = 1});
    REQUIRE(map.wait_for(test::kPatience));
    REQUIRE(map.exception());
    CHECK(is_expected(map.exception(), deed));
    try {
        pool.map(answer, with_one_bad(place, deed), {.chunksize = 1});
        FAIL_CHECK("no error");
    } catch (const std::exception&) {
        CHECK(is_expected(std::current_exception(), deed));
    }
}

void check_stream(mp::Pool& pool, Place place, Deed deed) {
    std::size_t seen = 0;
    auto look = [&](auto& item) {
        ++seen;
        if (item.has_value()) {
            CHECK(item.value().value == 10 * static_cast<int>(item.index()));
            CHECK(item.index() != 5);
        } else {
            CHECK(item.index() == 5);
            CHECK(is_expected(item.error(), deed));
        }
    };
    mp::MapOptions one{.chunksize = 1};
    for (auto& item : pool.imap(answer, with_one_bad(place, deed), one).outcomes()) look(item);
    for (auto& item : pool.imap_unordered(answer, with_one_bad(place, deed), one).outcomes())
        look(item);
    CHECK(seen == 24);
}

void check_healthy(mp::Pool& pool) {
    for (int i = 0; i < 10; ++i) CHECK(get(pool.submit(test::add, i, 1)) == i + 1);
    CHECK(test::eventually([&] { return pool.worker_pids().size() == pool.processes(); }));
}

}  // namespace

TEST_CASE("whatever misbehaves in a worker, however, costs one item and hangs nothing",
          "[pool][deadlock]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    for (Place place : {task_load, run, result_save})
        for (Deed deed : {throws, exits, crashes}) {
            CAPTURE(place, deed);
            check_submit(pool, place, deed);
            check_map(pool, place, deed);
            check_stream(pool, place, deed);
        }
    check_healthy(pool);
}

TEST_CASE("what throws in the application costs one item, and hangs nothing", "[pool][deadlock]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    for (Place place : {task_save, result_load}) {
        CAPTURE(place);
        check_submit(pool, place, throws);
        check_map(pool, place, throws);
        check_stream(pool, place, throws);
    }
    check_healthy(pool);
}

TEST_CASE("what misbehaves in a worker while the pool ends does not hold up the end",
          "[pool][deadlock][shutdown]") {
    auto method = GENERATE(from_range(methods()));
    for (Place place : {task_load, run, result_save})
        for (Deed deed : {throws, exits, crashes}) {
            CAPTURE(place, deed);
            std::vector<mp::Future<Answer>> futures;
            mp::Pool pool({.processes = 2, .start_method = method});
            for (const Argument& item : with_one_bad(place, deed))
                futures.push_back(pool.submit(answer, item));
            pool.close();
            pool.join();
            std::size_t failed = 0;
            for (auto& f : futures) {
                REQUIRE(f.ready());
                failed += f.exception() != nullptr;
            }
            CHECK(failed == 1);
        }
}

}  // namespace deadlock_test

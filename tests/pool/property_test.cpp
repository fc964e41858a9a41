// Random tasks with random options, failures, kills and cancellations against a sequential model:
// every future ends, in one of the ways that the model allows for its script and its options; it
// ran as often as it may; and the pool is as good as new.
//
// PROPERTY_SEED repeats a run; PROPERTY_ROUNDS makes it long (the suite `stress` does).
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "policy_support.hpp"

namespace property_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

// What one attempt of a task does; after the last one of its script, it succeeds.
enum Act : char { succeed = 's', fail = 'f', crash = 'c', leave = 'e', dawdle = 'd' };

struct Plan {
    std::string script;
    mp::TaskOptions options;
    int depends = -1;  // its argument is that one's value, if it has one
    bool cancel = false;
};
constexpr std::size_t kTasks = 60;
constexpr auto kTimeout = 1s;

std::uint64_t work(const std::string& path, std::size_t index, const std::string& script,
                   std::uint64_t argument) {
    std::uint64_t run = test::bump(path, index);
    if (run + 1 != mp::this_task::attempt()) test::bump(path, kTasks);  // counted in the model, too
    switch (run < script.size() ? script[run] : char(succeed)) {
        case fail:
            throw std::domain_error("attempt " + std::to_string(run + 1));
        case crash:
            test::die(SIGKILL);
            break;
        case leave:
            _exit(3);
        case dawdle:
            for (volatile unsigned i = 0; !mp::this_task::stop_requested();) i = i + 1;
            break;
        default:
            break;
    }
    return argument + index;
}

unsigned from_environment(const char* name, unsigned otherwise) {
    const char* text = std::getenv(name);
    return text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
}

std::vector<Plan> random_plans(std::mt19937& random) {
    std::vector<Plan> plans(kTasks);
    const std::string acts = "ssssssffffccced";
    for (std::size_t i = 0; i < kTasks; ++i) {
        Plan& plan = plans[i];
        for (unsigned n = random() % 4; n > 0; --n) plan.script += acts[random() % acts.size()];
        bool dawdles = plan.script.find(dawdle) != std::string::npos;
        if (dawdles || random() % 4 == 0) plan.options.timeout = dawdles ? kTimeout : 1h;
        if (random() % 2 == 0) {
            plan.options.retry.max_attempts = 1 + static_cast<unsigned>(random() % 4);
            plan.options.retry.max_crashes = static_cast<unsigned>(random() % 4);
            if (random() % 3 == 0) plan.options.retry.backoff = 1ms;
            if (random() % 3 == 0)
                plan.options.retry.when = [](const std::exception_ptr&) { return true; };
        }
        plan.options.priority = static_cast<int>(random() % 5) - 2;
        plan.options.key = random() % 3 == 0 ? random() % 4 : 0;
        if (random() % 3 == 0) plan.options.uses = {{random() % 2 == 0 ? "one" : "three", 1}};
        plan.cancel = random() % 6 == 0;
        if (i > 0 && random() % 4 == 0) plan.depends = static_cast<int>(random() % i);
    }
    return plans;
}

// The sequential model: how the task ends if nobody interferes, and after how many runs.
struct Expected {
    char end = succeed;  // the act of the last run
    std::uint64_t runs = 0;
};
Expected model(const Plan& plan) {
    const mp::Retry& retry = plan.options.retry;
    unsigned attempts = std::max(retry.max_attempts, 1u), crashes = 0;
    for (std::uint64_t run = 1;; ++run) {
        char act = run <= plan.script.size() ? plan.script[run - 1] : char(succeed);
        if (act == succeed || run >= attempts) return {act, run};
        bool lost = act == crash || act == leave;
        if (lost && ++crashes >= retry.max_crashes) return {act, run};
    }
}

char end_of(const mp::Future<std::uint64_t>& future) {
    try {
        test::get(future);
        return succeed;
    } catch (const std::domain_error&) {
        return fail;
    } catch (const mp::TaskTimeout&) {
        return dawdle;
    } catch (const mp::WorkerLost& lost) {
        return lost.exit_status().exited() ? leave : crash;
    } catch (const mp::CancelledError&) {
        return 'x';
    }
}

void check(const Plan& plan, std::size_t index, const mp::Future<std::uint64_t>& future,
           std::uint64_t argument, std::uint64_t runs) {
    Expected expected = model(plan);
    char end = end_of(future);
    INFO("task " << index << " script '" << plan.script << "' attempts "
                 << plan.options.retry.max_attempts << " crashes " << plan.options.retry.max_crashes
                 << " cancelled " << plan.cancel << " ended " << end << " after " << runs);
    if (end == 'x') {
        CHECK(plan.cancel);
        CHECK(runs <= expected.runs);
        return;
    }
    CHECK(end == expected.end);
    CHECK(runs == expected.runs);
    if (end == succeed) CHECK(future.get() == argument + index);
}

void run_round(mp::Pool& pool, std::mt19937& random) {
    test::SharedWords words(kTasks + 1);
    std::vector<Plan> plans = random_plans(random);
    std::vector<mp::Future<std::uint64_t>> futures;
    std::vector<std::uint64_t> arguments;
    for (std::size_t i = 0; i < kTasks; ++i) {
        std::uint64_t argument = i;
        if (plans[i].depends >= 0) {
            auto& before = futures[static_cast<std::size_t>(plans[i].depends)];
            if (end_of(before) == succeed) argument = before.get();
        }
        arguments.push_back(argument);
        futures.push_back(
            pool.submit(plans[i].options, work, words.path(), i, plans[i].script, argument));
        std::size_t victim = random() % (i + 1);
        if (plans[victim].cancel && !futures[victim].cancel()) CHECK(futures[victim].ready());
        if (random() % 10 == 0) pool.resize(1 + static_cast<unsigned>(random() % 4));
    }
    for (std::size_t i = 0; i < kTasks; ++i) (void)futures[i].wait_for(test::kPatience);
    // A cancelled task's worker may be at it still, or may count it late: ask when it is gone.
    for (int i = 0; i < 8; ++i) CHECK(test::get(pool.submit(test::add, i, 1)) == i + 1);
    for (std::size_t i = 0; i < kTasks; ++i) check(plans[i], i, futures[i], arguments[i], words[i]);
    CHECK(words[kTasks] == 0);  // each attempt knew its number
}

}  // namespace

TEST_CASE("random tasks end as the sequential model says", "[pool][property]") {
    auto seed = from_environment("PROPERTY_SEED", std::random_device()());
    auto rounds = from_environment("PROPERTY_ROUNDS", 4);
    std::printf("PROPERTY_SEED=%u PROPERTY_ROUNDS=%u\n", seed, rounds);
    std::fflush(stdout);
    INFO("PROPERTY_SEED=" << seed);
    std::mt19937 random(seed);
    for (auto method : test::methods()) {
        mp::Pool pool({.processes = 2,
                       .start_method = method,
                       .tokens = {{"one", 1}, {"three", 3}},
                       .terminate_grace = 50ms});
        for (unsigned round = 0; round < rounds; ++round) run_round(pool, random);
        pool.close();
        pool.join();
    }
}

}  // namespace property_test

// Pools once more: tasks that tasks submit, tokens, lines that tasks print, and other hosts.
#include <cstdint>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/task_pool.hpp>

#include "subjects.hpp"
#include "thread_job.hpp"

namespace subjects {
namespace {

int add(int a, int b) { return a + b; }
int twice(int n) { return 2 * n; }
[[noreturn]] int die(int) { __builtin_trap(); }
int refuse(int) { throw std::domain_error("thrown"); }

// As many as there are leaves of a tree of this depth.
int leaves(int depth) {
    if (depth == 0) return 1;
    auto left = sidestep::this_task::pool().submit(leaves, depth - 1);
    return sidestep::this_task::pool().submit(leaves, depth - 1).get() + left.get();
}
std::string long_text(int n) {
    if (n == 0) return std::string(50'000, 'n');
    return sidestep::this_task::pool().submit(long_text, n - 1).get() + "!";
}
int many_within(int n) {
    std::vector<sidestep::Future<int>> futures;
    for (int i = 0; i < n; ++i) futures.push_back(sidestep::this_task::pool().submit(twice, 1));
    int sum = 0;
    for (auto& each : futures) sum += each.get();
    return sum;
}
int refuse_within(int n) { return sidestep::this_task::pool().submit(refuse, n).get(); }
int die_within(int n) { return sidestep::this_task::pool().submit(die, n).get(); }
// With the end of a line, and without one.
int print(int n) {
    std::printf("of %d\nand", n);
    return n;
}

void use_job() {
    constexpr std::uint64_t kOnHost1 = 1;
    test::ThreadJob job(1);
    sidestep::Pool pool(job.options({.output = sidestep::Output::capture}));
    std::vector<sidestep::Future<int>> sums;
    for (int i = 0; i < 5; ++i) sums.push_back(pool.submit({.key = kOnHost1}, add, i, 1));
    for (int i = 0; i < 5; ++i) expect(sums[static_cast<std::size_t>(i)].get() == i + 1, "sums");
    expect(pool.map(twice, std::vector<int>(50, 4)) == std::vector<int>(50, 8), "doubles");
    auto thrown = pool.submit({.key = kOnHost1}, refuse, 1);
    expect_throw<std::domain_error>([&] { thrown.get(); }, "a task that throws there");
    auto lost = pool.submit({.key = kOnHost1}, die, 1);
    expect_throw<sidestep::WorkerLost>([&] { lost.get(); }, "a task that dies there");
    auto cancelled = pool.submit({.key = kOnHost1}, add, 1, 2);
    (void)cancelled.cancel();
    pool.close();
    expect_came(pool.join_for(2 * patience()), "the end of a pool over hosts");
}

}  // namespace

void use_nested(sidestep::StartMethod method) {
    std::optional<sidestep::Pool> pool;
    auto make = [&] {
        pool.emplace(sidestep::PoolOptions{
            .processes = 2, .start_method = method, .start_patience = patience()});
    };
    if (!step_twice("make", make)) return;
    using Step = void (*)(sidestep::Pool&);
    const std::pair<const char*, Step> steps[] = {
        {"tree", [](auto& p) { expect(p.apply(leaves, 4) == 16, "leaves of a tree"); }},
        {"chain",
         [](auto& p) {
             expect(p.apply(long_text, 3).size() == 50'003, "a text that was handed on");
         }},
        {"many", [](auto& p) { expect(p.apply(many_within, 30) == 60, "the sum of many"); }},
        {"throw",
         [](auto& p) {
             auto future = p.submit(refuse_within, 1);
             expect_throw<std::domain_error>([&] { future.get(); }, "what a nested task throws");
         }},
        {"death", [](auto& p) {
             auto future = p.submit(die_within, 1);
             expect_throw<std::runtime_error>([&] { future.get(); }, "a nested task that dies");
         }}};
    for (const auto& each : steps) {
        if (step_twice(each.first, [&] { each.second(*pool); })) continue;
        step("drop", [&] { pool.reset(); });  // it may have broken
        if (!step_twice("make", make)) return;
    }
    step("end", [&] { pool.reset(); });
}

void use_tokens() {
    step_twice("tokens", [] {
        sidestep::Pool pool({.processes = 2, .tokens = {{"one", 1}, {"two", 2}}});
        std::vector<sidestep::Future<int>> sums;
        for (int i = 0; i < 6; ++i)
            sums.push_back(
                pool.submit({.uses = {{"one", 1}, {"two", i % 2 == 0 ? 1u : 2u}}}, add, i, 1));
        for (int i = 0; i < 6; ++i)
            expect(sums[static_cast<std::size_t>(i)].get() == i + 1, "sums with tokens");
        auto lost = pool.submit({.uses = {{"one", 1}}}, die, 1);
        auto after = pool.submit({.uses = {{"one", 1}}}, add, 1, 2);
        expect_throw<sidestep::WorkerLost>([&] { lost.get(); }, "a death with a token");
        expect(after.get() == 3, "who waited for the dead one's token");
    });
}

void use_lines(sidestep::StartMethod method) {
    for (const char* prefix : {"{index}: ", "{task}: "})
        step_twice(std::string("lines of ") + prefix, [&] {
            sidestep::Pool pool({.processes = 2,
                                 .start_method = method,
                                 .start_patience = patience(),
                                 .output = sidestep::Output::lines,
                                 .line_prefix = prefix});
            std::vector<int> numbers(20, 3);
            expect(pool.map(print, numbers) == numbers, "what those that print return");
            auto lost = pool.submit(die, 1);
            expect_throw<sidestep::WorkerLost>([&] { lost.get(); }, "a death among lines");
            expect(pool.apply(print, 5) == 5, "the task after it");
        });
}

void use_hosts() { step_twice("job", use_job); }

}  // namespace subjects

// The gate at which tasks wait for tokens. White box: the class alone.
#include <algorithm>
#include <cstdlib>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "task/token_gate.hpp"

namespace token_gate_test {

using namespace sidestep::detail;
using sidestep::Tokens;

namespace {

constexpr std::uint32_t kAny = TokenUse::kAnyWorker;

// Uses that wait at a gate, numbered in their order.
struct Gate {
    TokenUse& wait(const std::vector<Tokens>& uses, int priority = 0, std::uint32_t worker = kAny) {
        TokenUse& use = *made.emplace_back(gate.wanted(uses));
        use.number = made.size();
        use.priority = priority;
        use.worker = worker;
        gate.wait(use);
        return use;
    }
    TokenGate gate{{{"gpu", 2}, {"disk", 3}}};
    std::deque<TokenUsePtr> made;
};

}  // namespace

TEST_CASE("who came first has its tokens first, the higher priority before that",
          "[pool][rooms][tokens]") {
    Gate g;
    TokenUse& first = g.wait({{"gpu", 2}});
    TokenUse& second = g.wait({{"gpu", 1}});
    TokenUse& urgent = g.wait({{"gpu", 1}}, 1);
    CHECK(g.gate.first(kAny) == &urgent);
    g.gate.take(urgent);
    // One is left, which the first needs: the second does not get it.
    CHECK(g.gate.first(kAny) == nullptr);
    g.gate.give_back(urgent);
    g.gate.give_back(urgent);  // what it has not is not counted twice
    CHECK(g.gate.first(kAny) == &first);
    g.gate.take(first);
    CHECK(g.gate.first(kAny) == nullptr);
    g.gate.give_back(first);
    g.gate.take(second);
    CHECK(g.gate.is_empty());
    CHECK(g.gate.first(kAny) == nullptr);
}

TEST_CASE("who lacks a token holds up nobody who needs others", "[pool][rooms][tokens]") {
    Gate g;
    TokenUse& holder = g.wait({{"gpu", 2}});
    g.gate.take(holder);
    g.wait({{"gpu", 1}, {"disk", 1}});
    TokenUse& other = g.wait({{"disk", 3}});
    CHECK(g.gate.first(kAny) == &other);
    g.gate.forget(other);
    g.gate.forget(other);
    CHECK(g.gate.waiting() == 1);
    CHECK(g.gate.first(kAny) == nullptr);
}

TEST_CASE("one for a certain worker keeps its turn", "[pool][rooms][tokens]") {
    Gate g;
    TokenUse& keyed = g.wait({{"gpu", 2}}, 0, 1);
    TokenUse& other = g.wait({{"gpu", 1}});
    CHECK(g.gate.first(kAny) == nullptr);
    CHECK(g.gate.first(0) == nullptr);
    CHECK(g.gate.first(1) == &keyed);
    g.gate.forget(keyed);
    CHECK(g.gate.first(1) == nullptr);
    CHECK(g.gate.first(kAny) == &other);
    CHECK(g.gate.any() == &other);
}

TEST_CASE("the gate's statistics: what there is, is in use, and is waited for",
          "[pool][rooms][tokens]") {
    Gate g;
    g.gate.take(g.wait({{"gpu", 1}}));
    g.wait({{"gpu", 2}, {"disk", 3}});
    auto stats = g.gate.stats();
    REQUIRE(stats.size() == 2);
    CHECK((stats[0].name == "gpu" && stats[0].count == 2 && stats[0].in_use == 1));
    CHECK((stats[1].name == "disk" && stats[1].count == 3 && stats[1].in_use == 0));
    CHECK((stats[0].waiting == 1 && stats[1].waiting == 1));
}

TEST_CASE("random uses: never more than there are, and nobody waits for ever",
          "[pool][rooms][tokens]") {
    const char* text = std::getenv("TOKEN_SEED");
    const auto seed =
        text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : std::random_device()();
    INFO("TOKEN_SEED=" << seed);
    std::mt19937 random(seed);
    Gate g;
    std::vector<TokenUse*> running;
    for (int step = 0; step < 2000; ++step) {
        if (random() % 2 == 0) {
            std::vector<Tokens> uses;
            if (random() % 3 != 0) uses.push_back({"gpu", 1 + random() % 2});
            if (uses.empty() || random() % 2 == 0) uses.push_back({"disk", 1 + random() % 3});
            if (random() % 2 == 0) std::reverse(uses.begin(), uses.end());
            g.wait(uses, static_cast<int>(random() % 3));
        }
        if (TokenUse* use = g.gate.first(kAny)) {  // take() checks that they are there
            g.gate.take(*use);
            running.push_back(use);
        }
        if (!running.empty() && random() % 2 == 0) {
            std::swap(running[random() % running.size()], running.back());
            g.gate.give_back(*running.back());
            running.pop_back();
        }
    }
    while (!g.gate.is_empty()) {
        for (TokenUse* use : running) g.gate.give_back(*use);
        running.clear();
        TokenUse* use = g.gate.first(kAny);
        REQUIRE(use);  // with all of them free, the first may begin
        g.gate.take(*use);
        running.push_back(use);
    }
}

}  // namespace token_gate_test

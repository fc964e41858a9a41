// What an actor's processes share: an object that writes where it must not costs its process, but
// no call is run twice for it, and no state is taken for another one. (What lies there is found by
// the names of mappings and files: this looks inside.)
#include <catch2/catch.hpp>

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/queue.hpp>

#include "actor_board.hpp"
#include "manager_support.hpp"
#include "support.hpp"

namespace actor_board_test {

namespace mp = sidestep;
using Catch::Matchers::Contains;
using mp::detail::ActorBoard;
using test::mapping;
using test::text_of_error;

namespace {

// Those of this process that have such a name, in the order in which they were made.
std::vector<int> files(const char* name) {
    std::vector<int> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
        std::error_code gone;
        const auto target = std::filesystem::read_symlink(entry.path(), gone).string();
        if (target.find(name) != std::string::npos)
            found.push_back(std::stoi(entry.path().filename().string()));
    }
    std::sort(found.begin(), found.end());
    return found;
}

enum class Damage { zeros, ones, other_numbers };

class Vandal {
  public:
    void spoil(mp::Queue<int> runs, bool upper_half, Damage damage) {
        runs.put(1);
        auto board = mapping("sidestep-actor");
        board = upper_half ? board.subspan(board.size() / 2) : board.first(board.size() / 2);
        auto* words = reinterpret_cast<std::uint64_t*>(board.data());
        for (std::size_t i = 0; i < board.size() / sizeof(std::uint64_t); ++i) {
            if (damage == Damage::other_numbers)
                words[i] += words[i] != 0;
            else
                words[i] = damage == Damage::zeros ? 0 : ~std::uint64_t(0);
        }
        ::kill(::getpid(), SIGKILL);
    }
};

std::vector<std::byte> bytes_of(const std::string& text) {
    auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    return {bytes.begin(), bytes.end()};
}
std::string text_of(const std::optional<std::vector<std::byte>>& bytes) {
    return bytes ? std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size())
                 : "nothing";
}
// The last byte of what is in it.
void spoil(int file) {
    const off_t end = ::lseek(file, 0, SEEK_END);
    REQUIRE(end > 0);
    char last = 0;
    REQUIRE(::pread(file, &last, 1, end - 1) == 1);
    last = static_cast<char>(last ^ 1);
    REQUIRE(::pwrite(file, &last, 1, end - 1) == 1);
}

}  // namespace

TEST_CASE("a call that wrote over half of what its actor shares with its keeper is not run again",
          "[manager][actor][board]") {
    const bool upper_half = GENERATE(false, true);
    const Damage damage = GENERATE(Damage::zeros, Damage::ones, Damage::other_numbers);
    INFO(upper_half << " " << static_cast<int>(damage));
    mp::Actor<Vandal> actor({.max_restarts = 2});
    mp::Queue<int> runs(8);
    CHECK_THROWS_AS(actor.call<&Vandal::spoil>(runs, upper_half, damage), mp::ActorLost);
    CHECK(actor.restarts() == 1);
    CHECK(runs.size() == 1);
}

TEST_CASE("a checkpoint that was written over is not taken for a state",
          "[manager][actor][board]") {
    const auto before = files("sidestep-checkpoint").size();
    ActorBoard board(true);
    const auto both = files("sidestep-checkpoint");
    REQUIRE(both.size() == before + 2);
    CHECK(text_of(board.last_state()) == "nothing");
    board.save(bytes_of("first"));
    CHECK(text_of(board.last_state()) == "first");
    board.save(bytes_of("second"));
    board.save(bytes_of("third"));
    board.save(bytes_of(""));
    CHECK(text_of(board.last_state()).empty());
    board.save(bytes_of("the last but one"));
    board.save(bytes_of("the last of all"));
    CHECK(text_of(board.last_state()) == "the last of all");
    // Which file has the last one, the board alone knows: one of these spoils it.
    const std::size_t order = GENERATE(0u, 1u);
    spoil(both[before + order]);
    const std::string left = text_of(board.last_state());
    CHECK((left == "the last of all" || left == "the last but one"));
    spoil(both[before + 1 - order]);
    CHECK_THAT(text_of_error([&] { (void)board.last_state(); }), Contains("written over"));
}

TEST_CASE("the board knows the calls that have begun, and forgets them when it has told",
          "[manager][actor][board]") {
    ActorBoard board(false);
    const auto first = board.begin({7, 1});
    const auto second = board.begin({7, 2});
    board.end(first);
    board.note_overdue(second);
    const auto begun = board.take_begun();
    REQUIRE_FALSE(begun.empty());
    for (const auto& call : begun) {
        CHECK(call.call.session == 7);
        CHECK(call.call.request == 2);
        CHECK(call.overdue);
    }
    CHECK(board.take_begun().empty());
}

}  // namespace actor_board_test

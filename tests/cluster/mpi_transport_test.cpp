// Frames over MPI, in a job of one process that sends to itself: whichever allocation fails, all of
// them arrive, in their order. (A program of its own, for each MPI: its operator new fails when it
// is told to.)
#include "mpi/mpi_transport.hpp"

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <catch2/catch.hpp>

#include "failing_new.hpp"
#include "support.hpp"

namespace mpi_transport_test {

namespace detail = sidestep::detail;

namespace {

// Of this thread alone: MPI has others.
thread_local long until_failure = -1;  // -1: nothing fails
thread_local std::size_t least = 0;    // bytes: smaller ones do not fail
thread_local long failures = 0;

}  // namespace

}  // namespace mpi_transport_test

bool test::allocation_fails(std::size_t size) noexcept {
    using namespace mpi_transport_test;
    if (until_failure < 0 || size < least || until_failure-- > 0) return false;
    ++failures;
    return true;
}

namespace mpi_transport_test {

namespace {

// The parts of a frame: one that goes with others, one that goes by itself, one of several pieces.
constexpr std::size_t kSmall = 100, kLarge = 100'000, kPieces = 9'000'000;
const std::vector<std::pair<std::size_t, std::size_t>> kSizes{
    {kSmall, 0},      {kSmall, kSmall}, {kSmall, kLarge},  {kLarge, kSmall}, {kSmall, kPieces},
    {kLarge, kLarge}, {kSmall, 0},      {kLarge, kPieces}, {kSmall, kSmall}};

std::vector<std::byte> made_of(std::size_t size, std::size_t number) {
    std::vector<std::byte> bytes(size);
    for (std::size_t i = 0; i < size; i += 997) bytes[i] = std::byte((i / 997 + number) & 0xff);
    return bytes;
}

// What was thrown for want of memory is done again.
template <class Step>
auto again(const Step& step) {
    for (;;) {
        try {
            return step();
        } catch (const std::bad_alloc&) {
        }
    }
}

// Sends all of them, and receives them while the n-th allocation fails. How many had no body.
int exchange(detail::MpiTransport& transport, long n, std::size_t least_bytes) {
    std::vector<std::vector<std::byte>> bodies;
    std::vector<detail::Frame> frames;
    for (std::size_t i = 0; i < kSizes.size(); ++i) {
        bodies.push_back(made_of(kSizes[i].second, i));
        frames.push_back({made_of(kSizes[i].first, i + 7), bodies.back(), {}});
    }
    std::vector<detail::ReceivedFrame> received;
    received.reserve(kSizes.size());
    failures = 0;
    least = least_bytes;
    until_failure = n;
    for (detail::Frame& frame : frames) again([&] { transport.send(0, std::move(frame)); });
    const bool all = test::eventually([&] {
        again([&] { return transport.progress(); });
        while (auto frame = transport.receive()) received.push_back(std::move(*frame));
        return received.size() == kSizes.size() && transport.all_sent();
    });
    until_failure = -1;
    REQUIRE(all);
    int without = 0;
    for (std::size_t i = 0; i < kSizes.size(); ++i) {
        CAPTURE(n, i);
        CHECK(received[i].from == 0);
        CHECK((received[i].head == made_of(kSizes[i].first, i + 7)));
        if (received[i].missing == 0) {
            CHECK((received[i].body == bodies[i]));
        } else {
            CHECK(received[i].missing == bodies[i].size());
            CHECK(received[i].body.empty());
            ++without;
        }
    }
    return without;
}

// Before the first test and after the last one: what it opens stays open.
struct Mpi {
    Mpi() {
        int provided = 0;
        MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
    }
    ~Mpi() { MPI_Finalize(); }
    Mpi(const Mpi&) = delete;
    Mpi& operator=(const Mpi&) = delete;
};
const Mpi mpi;

}  // namespace

TEST_CASE("whichever allocation fails, all frames arrive, and at most one without its body",
          "[cluster][mpi][no_memory]") {
    detail::MpiTransport transport;
    CHECK(exchange(transport, 1'000'000, 0) == 0);
    int rounds = 0, without = 0;
    for (long n = 0; n == 0 || failures > 0; ++n, ++rounds) {
        const int lost = exchange(transport, n, 0);
        CHECK(lost <= 1);
        without += lost;
    }
    CHECK(rounds > 20);
    CHECK(without > 0);
    // Of large ones alone, so that each is met: of heads too, which are tried again.
    for (long n = 0; n == 0 || failures > 0; ++n) CHECK(exchange(transport, n, kLarge) <= 1);
}

TEST_CASE("a large body comes to the place that is given for it, by its head", "[cluster][mpi]") {
    detail::MpiTransport transport;
    std::size_t asked = 0;
    const auto declined = made_of(kSmall, 9);
    transport.place_bodies([&](std::span<const std::byte> head, std::size_t size) {
        ++asked;
        if (std::ranges::equal(head, declined)) return detail::BodyPlace{};
        auto place = std::make_shared<std::vector<std::byte>>(size);
        return detail::BodyPlace{place->data(), place};
    });
    // By itself; in several pieces; with others in a message; and one for which there is no place.
    const std::vector<std::size_t> sizes{kLarge, kPieces, kSmall, kPieces};
    std::vector<std::vector<std::byte>> bodies;
    for (std::size_t i = 0; i < sizes.size(); ++i) bodies.push_back(made_of(sizes[i], i));
    for (std::size_t i = 0; i < sizes.size(); ++i)
        transport.send(0, {i == 3 ? declined : made_of(kSmall, i), bodies[i], {}});
    std::vector<detail::ReceivedFrame> received;
    REQUIRE(test::eventually([&] {
        (void)transport.progress();
        while (auto frame = transport.receive()) received.push_back(std::move(*frame));
        return received.size() == sizes.size() && transport.all_sent();
    }));
    CHECK(asked == 3);
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        CAPTURE(i);
        CHECK((received[i].place != nullptr) == (i < 2));
        CHECK(received[i].missing == 0);
        const auto placed = std::static_pointer_cast<std::vector<std::byte>>(received[i].place);
        CHECK(((placed ? *placed : received[i].body) == bodies[i]));
    }
}

// MPI goes on reading there, whenever it likes.
TEST_CASE("a body that is on its way when its transport goes lives on", "[cluster][mpi]") {
    std::weak_ptr<const std::vector<std::byte>> kept;
    {
        detail::MpiTransport transport;
        const auto own = std::make_shared<const std::vector<std::byte>>(made_of(kPieces, 3));
        kept = own;
        transport.send(0, {made_of(kSmall, 2), *own, own});
        (void)transport.progress();
        REQUIRE_FALSE(transport.all_sent());
    }
    CHECK(kept.use_count() == 1);
}

TEST_CASE("something is moving from when it is sent until it has come", "[cluster][mpi]") {
    detail::MpiTransport transport;
    CHECK_FALSE(transport.is_moving());
    const std::vector<std::byte> body = made_of(kPieces, 1);
    transport.send(0, {made_of(kSmall, 2), body, {}});
    bool moved_all_along = true;
    const bool has_come = test::eventually([&] {
        moved_all_along = moved_all_along && transport.is_moving();
        (void)transport.progress();
        return transport.receive().has_value();
    });
    REQUIRE(has_come);
    CHECK(moved_all_along);
    CHECK(test::eventually([&] {
        (void)transport.progress();
        return !transport.is_moving();
    }));
}

}  // namespace mpi_transport_test

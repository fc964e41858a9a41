// An actor's process that dies in the middle of what it says, at each byte of it; and a client.
#include <catch2/catch.hpp>

#include <sys/socket.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>

#include "fake_actor.hpp"
#include "manager_support.hpp"
#include "support.hpp"

namespace actor_cut_test {

namespace mp = sidestep;
using mp::detail::FrameKind;
using mp::detail::ObjectFrame;
using test::FakeActor;
using test::proxy_at;
using test::server_of_proxy;
using namespace std::chrono_literals;

namespace {

struct Worker {
    int add(int n) { return sum += n; }
    int sum = 0;
};

template <class Body>
std::string frame(const mp::detail::FrameHead& head, const Body& values) {
    mp::detail::HeapBuffer body;
    mp::OutputArchive archive(body);
    archive(values);
    return test::bytes_of(ObjectFrame{head, body.bytes(), {}, {}, {}});
}
void send_raw(mp::Connection& connection, std::string_view bytes) {
    CHECK(::send(connection.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
          static_cast<ssize_t>(bytes.size()));
}

}  // namespace

TEST_CASE(
    "an actor that dies at any byte of an answer: the next one is asked, and told nothing else",
    "[manager][actor][death][restart]") {
    std::optional<FakeActor> fake(std::in_place);
    std::size_t cuts = 0, size = 0;
    std::thread actor([&] {
        std::uint32_t restarts = 0;
        auto connection = fake->serve(restarts);
        for (std::size_t cut = 0;; ++cut) {
            const std::uint64_t request = connection.recv<ObjectFrame>().head.request;
            const std::string answer = frame({FrameKind::value, request, 0, 0, {}}, 41);
            size = answer.size();
            send_raw(connection, std::string_view(answer).substr(0, cut));
            if (cut == size) break;
            ++cuts;
            connection.close();
            connection = fake->serve(++restarts);
            CHECK(connection.recv<ObjectFrame>().head.request == request);
            FakeActor::answer(connection, FrameKind::value, request, 42);
        }
    });
    auto proxy = proxy_at<Worker>(fake->name());
    int answer = 42;
    while (answer == 42) answer = proxy.call<&Worker::add>(1);
    CHECK(answer == 41);
    actor.join();
    std::printf("%zu cuts of an answer of %zu bytes\n", cuts, size);
    CHECK(cuts == size);
    // The link to it ends when nobody is there any more, and goes when another one is made.
    fake.reset();
    CHECK_THROWS_AS(proxy.call<&Worker::add>(1), mp::ActorLost);
    proxy = {};
    mp::Manager next;
}

TEST_CASE("the death of an actor's process that has not said anything yet is told",
          "[manager][actor][death]") {
    std::optional<FakeActor> fake(std::in_place);
    mp::Proxy<Worker> proxy;
    std::thread client([&] { proxy = proxy_at<Worker>(fake->name()); });
    mp::Connection first = fake->take();
    client.join();
    auto death = proxy.death();
    first.close();  // it dies
    std::thread reader([&] { (void)death.wait_for(10s); });
    mp::Connection next = fake->serve(1);
    reader.join();
    CHECK(death.ready());
    next.close();
    fake.reset();
    CHECK_THROWS_AS(proxy.call<&Worker::add>(1), mp::ActorLost);
    proxy = {};
    mp::Manager another;  // as above
}

TEST_CASE("a client of an actor that dies at any byte of a call costs nobody anything",
          "[manager][actor][death]") {
    const unsigned restarts = GENERATE(0u, 1u);
    mp::Actor<Worker> actor({.max_restarts = restarts});
    const auto server = server_of_proxy(actor.proxy());
    using Body = mp::detail::MethodBody<Worker, &Worker::add, int>;
    const std::string call =
        frame({FrameKind::call, 1, 1, 1, mp::detail::task_id<Body>()}, std::tuple(1));
    std::size_t cuts = 0;
    for (std::size_t cut = 0; cut <= call.size(); ++cut) {
        mp::Connection client = mp::Client(server.address, {.authkey = server.authkey});
        send_raw(client, frame({FrameKind::resume, 0, 0, 0, {}}, std::uint64_t(1000 + cut)));
        CHECK(client.recv<ObjectFrame>().head.kind == FrameKind::serves);
        send_raw(client, std::string_view(call).substr(0, cut));
        if (cut == call.size())
            CHECK(client.recv<ObjectFrame>().head.kind == FrameKind::value);
        else
            ++cuts;
    }
    std::printf("%zu cuts of a call of %zu bytes\n", cuts, call.size());
    CHECK(cuts == call.size());
    CHECK(actor.call<&Worker::add>(1) == 2);  // the whole one was called, and no other
    CHECK(actor.restarts() == 0);
}

}  // namespace actor_cut_test

// The owner of an actor or a Manager that is killed in the middle of a call of its own, at each
// byte of it: its server ends, and others are told.
#include <catch2/catch.hpp>

#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>

#include "fake_actor.hpp"
#include "manager_support.hpp"
#include "owner_support.hpp"
#include "support.hpp"

namespace owner_test {

namespace mp = sidestep;
using mp::detail::FrameKind;
using mp::detail::ObjectFrame;
using test::Owned;

namespace {

#ifdef TEST_SANITIZED
constexpr std::size_t kStride = 8;  // each byte is three processes, which take their time there
#else
constexpr std::size_t kStride = 1;
#endif

// What a client sends to call add(1) of that object.
std::string call_of(std::uint64_t object) {
    using Body = mp::detail::MethodBody<Owned, &Owned::add, int>;
    mp::detail::HeapBuffer body;
    mp::OutputArchive archive(body);
    archive(std::tuple(1));
    return test::bytes_of(ObjectFrame{
        {FrameKind::call, 1, 1, object, mp::detail::task_id<Body>()}, body.bytes(), {}, {}, {}});
}

// The owner says so much of the call, by a connection of its own, and is killed.
void say(const mp::Proxy<Owned>& proxy, std::size_t cut) {
    const auto server = test::server_of_proxy(proxy);
    mp::Connection connection = mp::Client(server.address, {.authkey = server.authkey});
    const std::string call = call_of(proxy.number());
    if (cut > call.size()) ::_exit(0);
    (void)!::send(connection.fd(), call.data(), cut, MSG_NOSIGNAL);
    if (cut == call.size()) (void)connection.recv<ObjectFrame>();
    ::kill(::getpid(), SIGKILL);
}

}  // namespace

TEST_CASE("an owner that is killed at any byte of a call takes its server along",
          "[manager][actor][death][owner]") {
    const auto what = GENERATE(test::Held::actor, test::Held::kept_actor, test::Held::manager);
    CAPTURE(static_cast<int>(what));
    std::size_t cuts = 0;
    while (
        test::owner_dies(what, [&](const mp::Proxy<Owned>& proxy) { say(proxy, cuts * kStride); }))
        ++cuts;
    std::printf("%zu owners killed in a call of %zu bytes, the last one behind it\n", cuts,
                call_of(1).size());
    // Each byte, and the whole call.
    CHECK(cuts == call_of(1).size() / kStride + 1);
    mp::Manager next;  // links that have ended go when another one is made
}

}  // namespace owner_test

// The owner of an actor or a Manager that is killed at each system call of its calls.
#include <catch2/catch.hpp>

#include <cstdio>
#include <vector>

#include <sidestep/futures.hpp>

#include "faults.hpp"
#include "owner_support.hpp"

namespace owner_step_test {

namespace mp = sidestep;
using test::Owned;

TEST_CASE("an owner that is killed at any step of its calls takes its server along",
          "[manager][actor][death][owner]") {
    const auto what = GENERATE(test::Held::actor, test::Held::kept_actor, test::Held::manager);
    CAPTURE(static_cast<int>(what));
    int cuts = 0;
    for (test::Call call :
         {test::Call::send, test::Call::sendmsg, test::Call::recvmsg, test::Call::poll}) {
        int skip = 0;
        auto die = [&](const mp::Proxy<Owned>& proxy) {
            test::Fault fault(call, test::Fault::kKill, skip);
            std::vector<mp::Future<int>> under_way;
            for (int i = 0; i < 3; ++i) under_way.push_back(proxy.submit<&Owned::add>(1));
            for (auto& future : under_way) (void)future.get();
            (void)proxy.call<&Owned::add>(1);
        };
        while (test::owner_dies(what, die)) ++skip;
        cuts += skip;
    }
    mp::Manager next;  // links that have ended go when another one is made
    std::printf("%d cuts of an owner's calls, by system calls\n", cuts);
    CHECK(cuts >= 8);  // each of the four calls is sent, and its answer read
}

}  // namespace owner_step_test

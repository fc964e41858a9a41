// What the contracts of tests/pool that are compiled once more here run on: that it is another
// host.
#include <catch2/catch.hpp>

#include "both_pools.hpp"

namespace contract_test {

TEST_CASE("The contracts' tasks run on another host", "[cluster][contract]") {
    CHECK(test::eventually([] {
        test::Pools t;
        for (int i = 0; i < 50; ++i) (void)t.pool.submit(test::add, i, 1).get();
        sidestep::PoolStats stats = t.pool.stats();
        return stats.hosts.at(0).tasks == 0 && stats.hosts.at(1).tasks == 50;
    }));
}

}  // namespace contract_test

// manager_bench where Cap'n Proto was not found.
#include "common.hpp"
#include "manager_peer.hpp"

void bench::register_capnp() {
    benchmark::RegisterBenchmark("capnp/call", [](benchmark::State& state) {
        state.SkipWithError(
            "this program was built without Cap'n Proto: install libcapnp-dev and "
            "capnproto, and configure the build folder anew");
    });
}

// CAF, the C++ Actor Framework, for manager_bench.
#include <unistd.h>

#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "common.hpp"
#include "manager_peer.hpp"

namespace {

struct Config : caf::actor_system_config {
    Config() { load<caf::io::middleman>(); }
};

caf::behavior echo(caf::event_based_actor*) {
    return {[](std::int32_t n) { return n; }, [](std::string& text) { return std::move(text); }};
}

struct Peer {
    bench::PeerServer server{"caf"};
    Config config;
    caf::actor_system system{config};
    caf::scoped_actor self{system};
    caf::expected<caf::actor> echo = system.middleman().remote_actor(
        "127.0.0.1", static_cast<std::uint16_t>(std::stoi(server.address())));
};

void call(benchmark::State& state) {
    Peer peer;
    if (!peer.echo) return state.SkipWithError("no connection");
    std::int32_t n = 0;
    for (auto _ : state)
        peer.self->request(*peer.echo, caf::infinite, n + 1)
            .receive([&](std::int32_t answer) { n = answer; },
                     [&](const caf::error&) { state.SkipWithError("no answer"); });
    bench::set_items(state);
}

void in_flight(benchmark::State& state) {
    Peer peer;
    if (!peer.echo) return state.SkipWithError("no connection");
    const auto many = static_cast<std::int32_t>(state.range(0));
    for (auto _ : state) {
        for (std::int32_t i = 0; i < many; ++i) peer.self->send(*peer.echo, i);
        std::int32_t got = 0;
        peer.self->receive_while([&] { return got < many; })([&](std::int32_t) { ++got; });
    }
    bench::set_items(state, static_cast<double>(many));
}

void payload(benchmark::State& state) {
    Peer peer;
    if (!peer.echo) return state.SkipWithError("no connection");
    std::string text(std::size_t(1) << 20, 'x');
    for (auto _ : state)
        peer.self->request(*peer.echo, caf::infinite, text)
            .receive([&](std::string& answer) { text = std::move(answer); },
                     [&](const caf::error&) { state.SkipWithError("no answer"); });
    state.SetBytesProcessed(state.iterations() * (std::int64_t(2) << 20));
}

}  // namespace

void bench::serve_caf() {
    Config config;
    caf::actor_system system(config);
    const auto port = system.middleman().publish(system.spawn(echo), 0, "127.0.0.1");
    if (port) {
        say_address(std::to_string(*port));
        system.await_all_actors_done();
    }
    std::abort();  // never, but for a port that cannot be had
}

void bench::register_caf() {
    benchmark::RegisterBenchmark("caf/call", call)->UseRealTime();
    benchmark::RegisterBenchmark("caf/in_flight", in_flight)->Arg(16)->Arg(512)->UseRealTime();
    benchmark::RegisterBenchmark("caf/payload", payload)->UseRealTime();
}

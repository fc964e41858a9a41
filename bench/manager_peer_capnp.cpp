// Cap'n Proto for manager_bench.
#include <capnp/ez-rpc.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "common.hpp"
#include "manager_peer.capnp.h"
#include "manager_peer.hpp"

namespace {

class EchoServer final : public Echo::Server {
    kj::Promise<void> same(SameContext context) override {
        context.getResults().setN(context.getParams().getN());
        return kj::READY_NOW;
    }
    kj::Promise<void> data(DataContext context) override {
        context.getResults().setValue(context.getParams().getValue());
        return kj::READY_NOW;
    }
    kj::Promise<void> make(MakeContext context) override {
        context.getResults().setEcho(kj::heap<EchoServer>());
        return kj::READY_NOW;
    }
};

struct Peer {
    bench::PeerServer server{"capnp"};
    capnp::EzRpcClient client{server.address().c_str()};
    Echo::Client echo = client.getMain<Echo>();
    kj::WaitScope& scope = client.getWaitScope();
};

void call(benchmark::State& state) {
    Peer peer;
    int n = 0;
    for (auto _ : state) {
        auto request = peer.echo.sameRequest();
        request.setN(n + 1);
        n = request.send().wait(peer.scope).getN();
    }
    bench::set_items(state);
}

void in_flight(benchmark::State& state) {
    Peer peer;
    const auto many = static_cast<std::size_t>(state.range(0));
    std::vector<capnp::RemotePromise<Echo::SameResults>> under_way;
    under_way.reserve(many);
    for (auto _ : state) {
        for (std::size_t i = 0; i < many; ++i) {
            auto request = peer.echo.sameRequest();
            request.setN(static_cast<int>(i));
            under_way.push_back(request.send());
        }
        for (auto& answer : under_way) benchmark::DoNotOptimize(answer.wait(peer.scope).getN());
        under_way.clear();
    }
    bench::set_items(state, static_cast<double>(many));
}

void payload(benchmark::State& state) {
    Peer peer;
    std::string text(std::size_t(1) << 20, 'x');
    for (auto _ : state) {
        auto request = peer.echo.dataRequest();
        request.setValue(kj::arrayPtr(reinterpret_cast<const kj::byte*>(text.data()), text.size()));
        auto answer = request.send().wait(peer.scope);
        auto value = answer.getValue();
        text.assign(reinterpret_cast<const char*>(value.begin()), value.size());
    }
    state.SetBytesProcessed(state.iterations() * (std::int64_t(2) << 20));
}

void make_and_drop(benchmark::State& state) {
    Peer peer;
    for (auto _ : state) (void)peer.echo.makeRequest().send().wait(peer.scope).getEcho();
    bench::set_items(state);
}

}  // namespace

void bench::serve_capnp() {
    const std::string address = "unix-abstract:sidestep-capnp-" + std::to_string(getpid());
    capnp::EzRpcServer server(kj::heap<EchoServer>(), address.c_str());
    auto& scope = server.getWaitScope();
    server.getPort().wait(scope);
    say_address(address);
    kj::NEVER_DONE.wait(scope);
    std::abort();  // never
}

void bench::register_capnp() {
    benchmark::RegisterBenchmark("capnp/call", call)->UseRealTime();
    benchmark::RegisterBenchmark("capnp/in_flight", in_flight)->Arg(16)->Arg(512)->UseRealTime();
    benchmark::RegisterBenchmark("capnp/payload", payload)->UseRealTime();
    benchmark::RegisterBenchmark("capnp/make_and_drop", make_and_drop)->UseRealTime();
}

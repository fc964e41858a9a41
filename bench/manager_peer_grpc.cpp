// gRPC for manager_bench.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "common.hpp"
#include "manager_peer.grpc.pb.h"
#include "manager_peer.hpp"

namespace {

using bench_peer::Echo;
using bench_peer::Number;
using bench_peer::Text;

class EchoServer final : public Echo::Service {
    grpc::Status Same(grpc::ServerContext*, const Number* in, Number* out) override {
        out->set_n(in->n());
        return grpc::Status::OK;
    }
    grpc::Status Data(grpc::ServerContext*, const Text* in, Text* out) override {
        out->set_value(in->value());
        return grpc::Status::OK;
    }
};

struct Peer {
    bench::PeerServer server{"grpc"};
    std::unique_ptr<Echo::Stub> echo =
        Echo::NewStub(grpc::CreateChannel(server.address(), grpc::InsecureChannelCredentials()));
};

void call(benchmark::State& state) {
    Peer peer;
    Number in, out;
    for (auto _ : state) {
        grpc::ClientContext context;
        in.set_n(out.n() + 1);
        if (!peer.echo->Same(&context, in, &out).ok()) return state.SkipWithError("no answer");
    }
    bench::set_items(state);
}

// As its users write it: a completion queue, and an answer that is kept for each call.
void in_flight(benchmark::State& state) {
    Peer peer;
    struct Call {
        grpc::ClientContext context;
        Number out;
        grpc::Status status;
        std::unique_ptr<grpc::ClientAsyncResponseReader<Number>> reader;
    };
    const auto many = static_cast<std::size_t>(state.range(0));
    grpc::CompletionQueue queue;
    for (auto _ : state) {
        std::vector<Call> calls(many);
        for (std::size_t i = 0; i < many; ++i) {
            Number in;
            in.set_n(static_cast<std::int32_t>(i));
            calls[i].reader = peer.echo->AsyncSame(&calls[i].context, in, &queue);
            calls[i].reader->Finish(&calls[i].out, &calls[i].status, &calls[i]);
        }
        for (std::size_t i = 0; i < many; ++i) {
            void* done = nullptr;
            bool ok = false;
            if (!queue.Next(&done, &ok) || !ok || !static_cast<Call*>(done)->status.ok())
                return state.SkipWithError("no answer");
        }
    }
    bench::set_items(state, static_cast<double>(many));
}

void payload(benchmark::State& state) {
    Peer peer;
    Text in, out;
    in.set_value(std::string(std::size_t(1) << 20, 'x'));
    for (auto _ : state) {
        grpc::ClientContext context;
        if (!peer.echo->Data(&context, in, &out).ok()) return state.SkipWithError("no answer");
    }
    state.SetBytesProcessed(state.iterations() * (std::int64_t(2) << 20));
}

}  // namespace

void bench::serve_grpc() {
    const std::string address = "unix-abstract:sidestep-grpc-" + std::to_string(getpid());
    EchoServer echo;
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials());
    builder.RegisterService(&echo);
    std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (server) {
        say_address(address);
        server->Wait();
    }
    std::abort();  // never, but for an address that cannot be had
}

void bench::register_grpc() {
    benchmark::RegisterBenchmark("grpc/call", call)->UseRealTime();
    benchmark::RegisterBenchmark("grpc/in_flight", in_flight)->Arg(16)->Arg(512)->UseRealTime();
    benchmark::RegisterBenchmark("grpc/payload", payload)->UseRealTime();
}

// iceoryx for queue_bench: a publisher that waits for a slow subscriber, so that nothing is lost.
// Its broker, iox-roudi, runs as long as the row.
#include <sched.h>

#include <cstdio>
#include <cstdlib>

#include <iceoryx_posh/popo/publisher.hpp>
#include <iceoryx_posh/popo/subscriber.hpp>
#include <iceoryx_posh/runtime/posh_runtime.hpp>

#include <sidestep/subprocess.hpp>

#include "queue_run.hpp"

namespace {

namespace sp = sidestep::subprocess;

struct Item {  // a published type has a constructor of its own
    std::uint64_t first = 1, second = 2;
};

const iox::capro::ServiceDescription& service() {
    static const iox::capro::ServiceDescription description{"sidestep", "queue", "bench"};
    return description;
}

// A child that takes part, and leaves by exit(): what stands in its runtime's destructor removes
// its socket. What it logs would stand among the results.
template <class F>
void take_part(const char* role, F work) {
    if (!std::freopen("/dev/null", "w", stdout) || !std::freopen("/dev/null", "w", stderr))
        std::exit(1);
    std::string name = role + std::to_string(getpid());
    iox::runtime::PoshRuntime::initRuntime(
        iox::RuntimeName_t(iox::cxx::TruncateToCapacity, name.c_str()));
    work();
    std::exit(0);
}

void publish(long count) {
    iox::popo::PublisherOptions options;
    options.subscriberTooSlowPolicy = iox::popo::ConsumerTooSlowPolicy::WAIT_FOR_CONSUMER;
    iox::popo::Publisher<Item> publisher(service(), options);
    while (!publisher.hasSubscribers()) sched_yield();
    for (long i = 0; i < count;)
        publisher.loan()
            .and_then([&](auto& sample) {
                sample.publish();
                ++i;
            })
            .or_else([](auto&) { sched_yield(); });  // all chunks are with the subscriber
    while (publisher.hasSubscribers()) sched_yield();
}

void subscribe(long count) {
    iox::popo::SubscriberOptions options;
    options.queueFullPolicy = iox::popo::QueueFullPolicy::BLOCK_PRODUCER;
    iox::popo::Subscriber<Item> subscriber(service(), options);
    for (long i = 0; i < count;)
        subscriber.take()
            .and_then([&](auto& sample) {
                benchmark::DoNotOptimize(sample->first);
                ++i;
            })
            .or_else([](auto&) { sched_yield(); });
}

double run_iceoryx(long messages) {
    return bench::run_processes(
        1, messages, [](long n) { take_part("sidestep-publisher-", [n] { publish(n); }); },
        [](long n) { take_part("sidestep-subscriber-", [n] { subscribe(n); }); });
}

void iceoryx(benchmark::State& state) {
    constexpr long kMessages = 500'000;
    try {
        sp::Popen broker({"iox-roudi"}, {.std_out = sp::DEVNULL, .std_err = sp::DEVNULL});
        run_iceoryx(1);  // waits for the broker
        for (auto _ : state) state.SetIterationTime(run_iceoryx(kMessages));
        broker.terminate();
        broker.wait();
    } catch (const sp::StartError& error) {
        return state.SkipWithError(error.what());
    }
    bench::set_items(state, kMessages);
}

BENCHMARK(iceoryx)->Name("iceoryx/1")->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace

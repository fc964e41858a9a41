// Calls of objects that live in other processes.
//
//   call/<where>            one call there and back: its caller waits
//   in_flight/<where>/<n>   n calls are under way; per call
//   payload/<where>         1 MiB there and back
//   clients/<where>         four other processes call at once, each waiting for its answers; per
//                           call
//   make_and_drop           an object of a Manager, from make() until its proxy is gone
//   killed                  from the SIGKILL of a Manager's server until a call of it has failed
//   lock/two_clients        two processes that want one lock of a Manager; per lock and unlock
//   lock/of_the_dead        from the SIGKILL of who has it until the next one has it
//   connection, bare_tcp,   the floors: a small message there and back by a bare Connection, over
//   bare_tls                TCP with nothing around it, and by a Connection over TCP with TLS
//   connection_payload      1 MiB there and back by a bare Connection
//   python/...              the same of Python's multiprocessing.managers, where python3 is found
//   capnp/..., grpc/...     and of Cap'n Proto's RPC and of gRPC, over a Unix socket, and of CAF,
//   caf/...                 over TCP, where these are found (manager_peer.hpp)
//
// where: actor (its owner's calls), manager (a server process, Unix socket), unix and tcp (a
// ManagerServer of another process; TCP with TLS, on loopback).
//
// What good looks like: call/manager 1.2 of connection, call/tcp 1.7 of bare_tcp; in flight 300 k
// calls/s by Unix sockets and 200 k/s by TCP; payload 0.7 of connection_payload; make_and_drop 30
// us; killed 1 ms, lock/of_the_dead 5 ms; each well below Python's row, and below Cap'n Proto's.
#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/init.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/manager_server.hpp>
#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>

#include <signal.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "common.hpp"
#include "manager_peer.hpp"

namespace mp = sidestep;

namespace {

struct Echo {
    int same(int n) { return n; }
    std::string text(std::string value) { return value; }
    void stay() {
        for (;;) ::pause();
    }
};

// A ManagerServer in a process of its own, until the end of this object.
class Remote {
  public:
    explicit Remote(const mp::Address& address) {
        auto [here, there] = mp::Pipe();
        control_ = std::move(here);
        process_.emplace(
            mp::ProcessOptions{.daemon = true},
            [](mp::Address at, mp::Connection owner) {
                mp::ManagerServer server({.address = at, .authkey = "bench"});
                server.expose<&Echo::same, &Echo::text>("echo", std::make_shared<Echo>());
                server.start();
                owner.send(server.address());
                (void)owner.poll(std::nullopt);
                server.stop();
            },
            address, std::move(there));
        process_->start();
        manager_ = std::unique_ptr<mp::Manager>(new mp::Manager(
            mp::Manager::connect(control_.recv<mp::Address>(), {.authkey = "bench"})));
    }
    ~Remote() {
        manager_.reset();
        control_.close();
        process_->join();
    }
    mp::Proxy<Echo> echo() { return manager_->get<Echo>("echo"); }

  private:
    mp::Connection control_;
    std::optional<mp::Process> process_;
    std::unique_ptr<mp::Manager> manager_;
};

// run(proxy) of an Echo in each place.
using Run = void (*)(benchmark::State&, const mp::Proxy<Echo>&);

void of_actor(benchmark::State& state, Run run) {
    mp::Actor<Echo> actor;
    run(state, actor.proxy());
}
void of_manager(benchmark::State& state, Run run) {
    mp::Manager manager;
    run(state, manager.make<Echo>());
}
void of_unix(benchmark::State& state, Run run) {
    Remote remote{mp::UnixAddress{}};
    run(state, remote.echo());
}
void of_tcp(benchmark::State& state, Run run) {
    Remote remote{mp::TcpAddress{}};
    run(state, remote.echo());
}

void call(benchmark::State& state, const mp::Proxy<Echo>& echo) {
    int n = 0;
    for (auto _ : state) n = echo.call<&Echo::same>(n + 1);
    bench::set_items(state);
}

void in_flight(benchmark::State& state, const mp::Proxy<Echo>& echo) {
    const auto many = static_cast<std::size_t>(state.range(0));
    std::vector<mp::Future<int>> under_way;
    under_way.reserve(many);
    for (auto _ : state) {
        for (std::size_t i = 0; i < many; ++i)
            under_way.push_back(echo.submit<&Echo::same>(static_cast<int>(i)));
        for (auto& future : under_way) benchmark::DoNotOptimize(future.get());
        under_way.clear();
    }
    bench::set_items(state, static_cast<double>(many));
}

void payload(benchmark::State& state, const mp::Proxy<Echo>& echo) {
    std::string text(std::size_t(1) << 20, 'x');
    for (auto _ : state) text = echo.call<&Echo::text>(text);
    state.SetBytesProcessed(state.iterations() * (std::int64_t(2) << 20));
}

// Another process, which does what `work` does with each number that it is sent, and sends it back.
// (The callable captures nothing.)
class Other {
  public:
    template <class Work, class Proxy>
    Other(Work, const Proxy& proxy) {
        auto [here, there] = mp::Pipe();
        control_ = std::move(here);
        process_.emplace(
            mp::ProcessOptions{.daemon = true},
            [](Proxy its_proxy, mp::Connection control) {
                try {
                    for (;;) {
                        const int n = control.recv<int>();
                        Work{}(its_proxy, n);
                        control.send(n);
                    }
                } catch (const mp::EndOfStream&) {
                }
            },
            proxy, std::move(there));
        process_->start();
        begin(1);
        end();
    }
    ~Other() {
        control_.close();
        process_->join();
    }
    void begin(int n) { control_.send(n); }
    void end() { (void)control_.recv<int>(); }
    void kill() { process_->kill(); }

  private:
    mp::Connection control_;
    std::optional<mp::Process> process_;
};

constexpr auto kCallOften = [](const mp::Proxy<Echo>& echo, int times) {
    for (int i = 0; i < times; ++i) (void)echo.call<&Echo::same>(i);
};

void clients(benchmark::State& state, const mp::Proxy<Echo>& echo) {
    constexpr int kClients = 4, kCalls = 250;
    std::vector<std::unique_ptr<Other>> all;
    for (int i = 0; i < kClients; ++i) all.push_back(std::make_unique<Other>(kCallOften, echo));
    for (auto _ : state) {
        for (auto& client : all) client->begin(kCalls);
        for (auto& client : all) client->end();
    }
    bench::set_items(state, kClients * kCalls);
}

void killed(benchmark::State& state) {
    for (auto _ : state) {
        mp::Manager manager;
        auto echo = manager.make<Echo>();
        (void)echo.call<&Echo::same>(1);
        auto stays = echo.submit<&Echo::stay>();
        state.SetIterationTime(bench::timed([&] {
            ::kill(manager.pid(), SIGKILL);
            try {
                stays.get();
            } catch (const mp::ActorLost&) {
            }
        }));
    }
}

constexpr auto kLockOften = [](const mp::LockProxy& lock, int times) {
    for (int i = 0; i < times; ++i) {
        lock.lock();
        lock.unlock();
    }
};

void lock_of_two(benchmark::State& state) {
    constexpr int kTimes = 100;
    mp::Manager manager;
    auto lock = manager.lock();
    Other other(kLockOften, lock);
    for (auto _ : state) {
        other.begin(kTimes);
        kLockOften(lock, kTimes);
        other.end();
    }
    bench::set_items(state, 2 * kTimes);
}

void lock_of_the_dead(benchmark::State& state) {
    mp::Manager manager;
    auto lock = manager.lock();
    for (auto _ : state) {
        Other holder([](const mp::LockProxy& its, int) { its.lock(); }, lock);
        state.SetIterationTime(bench::timed([&] {
            holder.kill();
            lock.lock();
        }));
        lock.unlock();
    }
}

void make_and_drop(benchmark::State& state) {
    mp::Manager manager;
    for (auto _ : state) (void)manager.make<Echo>();
    bench::set_items(state);
}

// --- Python ------------------------------------------------------------------------------------

// Prints the seconds of one of what `work` does, n times over.
const char* const kPython = R"(
import sys, time
from multiprocessing import Barrier, Process
from multiprocessing.managers import BaseManager
class Echo:
    def same(self, n): return n
class Manager(BaseManager): pass
Manager.register('Echo', Echo)
def call_often(echo, times, barrier):
    echo.same(1)
    barrier.wait()
    for _ in range(times): echo.same(1)
if __name__ == '__main__':
    manager = Manager()
    manager.start()
    echo = manager.Echo()
    text = b'x' * (1 << 20)
    def call(): echo.same(1)
    def payload(): echo.same(text)
    def make_and_drop(): manager.Echo()
    n = int(sys.argv[2])
    if sys.argv[1] == 'clients':
        barrier = Barrier(5)
        others = [Process(target=call_often, args=(echo, n // 4, barrier)) for _ in range(4)]
        for other in others: other.start()
        barrier.wait()
        begin = time.perf_counter()
        for other in others: other.join()
        print((time.perf_counter() - begin) / n)
        manager.shutdown()
        sys.exit()
    work = {'call': call, 'payload': payload, 'make_and_drop': make_and_drop}[sys.argv[1]]
    work()
    begin = time.perf_counter()
    for _ in range(n): work()
    print((time.perf_counter() - begin) / n)
    manager.shutdown()
)";

void python(benchmark::State& state, const std::string& work, int times) {
    double seconds = 0;
    try {
        seconds = std::stod(
            mp::subprocess::check_output({"python3", "-c", kPython, work, std::to_string(times)}));
    } catch (const std::exception& error) {  // there is none, or it says why it cannot
        return state.SkipWithError(error.what());
    }
    for (auto _ : state) state.SetIterationTime(seconds);
    if (work == "payload")
        state.SetBytesProcessed(state.iterations() * (std::int64_t(2) << 20));
    else
        bench::set_items(state);
}

// --- other systems -------------------------------------------------------------------------------

struct Peer {
    const char* name;
    const char* packages;
    void (*add_rows)();  // null: it was not found
    void (*serve)();
};
constexpr Peer kPeers[] = {
#ifdef HAVE_CAPNP
    {"capnp", "libcapnp-dev and capnproto", bench::register_capnp, bench::serve_capnp},
#else
    {"capnp", "libcapnp-dev and capnproto", nullptr, nullptr},
#endif
#ifdef HAVE_GRPC
    {"grpc", "libgrpc++-dev and protobuf-compiler-grpc", bench::register_grpc, bench::serve_grpc},
#else
    {"grpc", "libgrpc++-dev and protobuf-compiler-grpc", nullptr, nullptr},
#endif
#ifdef HAVE_CAF
    {"caf", "libcaf-dev", bench::register_caf, bench::serve_caf},
#else
    {"caf", "libcaf-dev", nullptr, nullptr},
#endif
};

void register_peers() {
    for (const Peer& peer : kPeers) {
        if (peer.add_rows) {
            peer.add_rows();
            continue;
        }
        benchmark::RegisterBenchmark(
            (std::string(peer.name) + "/call").c_str(),
            [packages = peer.packages](benchmark::State& state) {
                state.SkipWithError(("this program was built without it: install " +
                                     std::string(packages) +
                                     ", and configure the build folder anew")
                                        .c_str());
            });
    }
}

// Returns if there is no such peer.
void serve(std::string_view name) {
    for (const Peer& peer : kPeers)
        if (name == peer.name && peer.serve) peer.serve();
}

void register_all() {
    const std::pair<const char*, void (*)(benchmark::State&, Run)> places[] = {
        {"actor", of_actor}, {"manager", of_manager}, {"unix", of_unix}, {"tcp", of_tcp}};
    for (auto [name, place] : places) {
        benchmark::RegisterBenchmark(("call/" + std::string(name)).c_str(), place, &call)
            ->UseRealTime();
        benchmark::RegisterBenchmark(("in_flight/" + std::string(name)).c_str(), place, &in_flight)
            ->Arg(16)
            ->Arg(512)
            ->UseRealTime();
        benchmark::RegisterBenchmark(("payload/" + std::string(name)).c_str(), place, &payload)
            ->UseRealTime();
        benchmark::RegisterBenchmark(("clients/" + std::string(name)).c_str(), place, &clients)
            ->UseRealTime();
    }
    benchmark::RegisterBenchmark("make_and_drop", make_and_drop)->UseRealTime();
    benchmark::RegisterBenchmark("killed", killed)->UseManualTime()->Iterations(50);
    benchmark::RegisterBenchmark("lock/two_clients", lock_of_two)->UseRealTime();
    benchmark::RegisterBenchmark("lock/of_the_dead", lock_of_the_dead)
        ->UseManualTime()
        ->Iterations(50);
    bench::register_manager_floors();
    const std::pair<const char*, int> rows[] = {
        {"call", 2000}, {"payload", 30}, {"make_and_drop", 100}, {"clients", 4000}};
    for (auto [work, times] : rows)
        benchmark::RegisterBenchmark(("python/" + std::string(work)).c_str(), python,
                                     std::string(work), times)
            ->UseManualTime()
            ->Iterations(1);
    register_peers();
}

}  // namespace

int main(int argc, char** argv) {
    mp::init();
    if (argc == 3 && argv[1] == std::string_view("--serve")) return serve(argv[2]), 1;
    register_all();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}

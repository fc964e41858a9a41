// What manager_bench's calls cannot be faster than: the same bytes there and back, with less around
// them.
#include <sidestep/connection.hpp>
#include <sidestep/listener.hpp>
#include <sidestep/process.hpp>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "common.hpp"
#include "manager_peer.hpp"

namespace mp = sidestep;

namespace {

// A Connection to another process, which sends back what comes.
template <class T>
class Mirror {
  public:
    Mirror() {
        auto [here, there] = mp::Pipe();
        end_ = std::move(here);
        process_.emplace(
            mp::ProcessOptions{.daemon = true},
            [](mp::Connection end) {
                try {
                    for (;;) end.send(end.recv<T>());
                } catch (const mp::EndOfStream&) {
                }
            },
            std::move(there));
        process_->start();
    }
    ~Mirror() {
        end_.close();
        process_->join();
    }
    T echo(const T& value) {
        end_.send(value);
        return end_.recv<T>();
    }

  private:
    mp::Connection end_;
    std::optional<mp::Process> process_;
};

void connection(benchmark::State& state) {
    Mirror<int> mirror;
    int n = 0;
    for (auto _ : state) n = mirror.echo(n + 1);
    bench::set_items(state);
}

void connection_payload(benchmark::State& state) {
    Mirror<std::string> mirror;
    std::string text(std::size_t(1) << 20, 'x');
    for (auto _ : state) text = mirror.echo(text);
    state.SetBytesProcessed(state.iterations() * (std::int64_t(2) << 20));
}

// Over loopback, as Connections are: what is written goes at once.
void bare_tcp(benchmark::State& state) {
    const int on = 1;
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    auto* address = reinterpret_cast<sockaddr*>(&at);
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int end = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (::bind(listener, address, size) != 0 || ::listen(listener, 1) != 0 ||
        ::getsockname(listener, address, &size) != 0 || ::connect(end, address, size) != 0)
        return state.SkipWithError("no TCP socket at 127.0.0.1");
    ::setsockopt(end, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const pid_t mirror = bench::fork_child([&] {
        ::close(end);
        const int peer = ::accept(listener, nullptr, nullptr);
        ::setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        for (int n = 0; ::recv(peer, &n, sizeof n, MSG_WAITALL) == sizeof n;)
            if (::send(peer, &n, sizeof n, MSG_NOSIGNAL) != sizeof n) break;
    });
    int n = 0;
    for (auto _ : state) {
        ++n;
        if (::send(end, &n, sizeof n, MSG_NOSIGNAL) != sizeof n ||
            ::recv(end, &n, sizeof n, MSG_WAITALL) != sizeof n)
            state.SkipWithError("the other end has gone");
    }
    bench::set_items(state);
    ::close(end);
    ::close(listener);
    ::waitpid(mirror, nullptr, 0);
}

void bare_tls(benchmark::State& state) {
    auto [control, there] = mp::Pipe();
    mp::Process mirror(
        mp::ProcessOptions{.daemon = true},
        [](mp::Connection owner) {
            mp::Listener listener(
                {.address = mp::TcpAddress{}, .authkey = "bench", .encrypted = true});
            owner.send(listener.address());
            mp::Connection end = listener.accept();
            try {
                for (;;) end.send(end.recv<int>());
            } catch (const mp::EndOfStream&) {
            }
        },
        std::move(there));
    mirror.start();
    mp::Connection end =
        mp::Client(control.recv<mp::Address>(), {.authkey = "bench", .encrypted = true});
    int n = 0;
    for (auto _ : state) {
        end.send(n + 1);
        n = end.recv<int>();
    }
    bench::set_items(state);
    end.close();
    mirror.join();
}

}  // namespace

void bench::register_manager_floors() {
    benchmark::RegisterBenchmark("connection", connection)->UseRealTime();
    benchmark::RegisterBenchmark("connection_payload", connection_payload)->UseRealTime();
    benchmark::RegisterBenchmark("bare_tcp", bare_tcp)->UseRealTime();
    benchmark::RegisterBenchmark("bare_tls", bare_tls)->UseRealTime();
}

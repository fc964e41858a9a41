// Connection against a bare socket pair: the same bytes between the same two threads, once through
// send_bytes/recv_bytes_into, once through write(2)/read(2) of a size both sides know beforehand.
//
//   round_trip/<size>   one message there and back; time is for the pair
//   one_thread/<size>   one message sent and received by one thread: the calls' cost, no switching
//   stream/<size>       one way, as fast as it goes; bytes per second
//   typed round trip    send/recv of a std::vector<int>, for what serialization adds
//
// What good looks like: the connection rows reach 0.9 of the bare rows of the same size.
#include <sidestep/connection.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include <benchmark/benchmark.h>

namespace {

using sidestep::Connection;

struct BareSocket {
    explicit BareSocket(int number) : fd(number) {}
    ~BareSocket() { close(fd); }
    BareSocket(const BareSocket&) = delete;
    BareSocket& operator=(const BareSocket&) = delete;

    void send(std::span<const std::byte> bytes) {
        while (!bytes.empty()) {
            ssize_t n = ::write(fd, bytes.data(), bytes.size());
            if (n <= 0) return;
            bytes = bytes.subspan(static_cast<std::size_t>(n));
        }
    }
    bool recv(std::span<std::byte> bytes) {
        while (!bytes.empty()) {
            ssize_t n = ::recv(fd, bytes.data(), bytes.size(), MSG_WAITALL);
            if (n <= 0) return false;
            bytes = bytes.subspan(static_cast<std::size_t>(n));
        }
        return true;
    }
    int fd;
};

struct FramedSocket {
    explicit FramedSocket(int number) : connection(number) {}
    void send(std::span<const std::byte> bytes) { connection.send_bytes(bytes); }
    bool recv(std::span<std::byte> bytes) {
        try {
            connection.recv_bytes_into(bytes);
            return true;
        } catch (const sidestep::EndOfStream&) {
            return false;
        }
    }
    Connection connection;
};

template <class Socket>
struct Ends {
    Ends() {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) std::abort();
        here = std::make_unique<Socket>(fds[0]);
        there = std::make_unique<Socket>(fds[1]);
    }
    std::unique_ptr<Socket> here, there;
};

template <class Socket>
void round_trip(benchmark::State& state) {
    Ends<Socket> ends;
    std::vector<std::byte> message(static_cast<std::size_t>(state.range(0)));
    std::thread echo([&, buffer = message]() mutable {
        while (ends.there->recv(buffer)) ends.there->send(buffer);
    });
    for (auto _ : state) {
        ends.here->send(message);
        ends.here->recv(message);
    }
    ends.here.reset();
    echo.join();
    state.SetItemsProcessed(state.iterations());
}

template <class Socket>
void stream(benchmark::State& state) {
    Ends<Socket> ends;
    std::vector<std::byte> message(static_cast<std::size_t>(state.range(0)));
    std::thread sink([&, buffer = message]() mutable {
        while (ends.there->recv(buffer)) benchmark::DoNotOptimize(buffer.data());
    });
    for (auto _ : state) ends.here->send(message);
    ends.here.reset();
    sink.join();
    state.SetBytesProcessed(state.iterations() * state.range(0));
    state.SetItemsProcessed(state.iterations());
}

template <class Socket>
void one_thread(benchmark::State& state) {
    Ends<Socket> ends;
    std::vector<std::byte> message(static_cast<std::size_t>(state.range(0)));
    for (auto _ : state) {
        ends.here->send(message);
        ends.there->recv(message);
    }
    state.SetItemsProcessed(state.iterations());
}

void typed_round_trip(benchmark::State& state) {
    auto [here, there] = sidestep::Pipe();
    std::vector<int> numbers(static_cast<std::size_t>(state.range(0)) / sizeof(int));
    std::thread echo([&end = there] {
        try {
            for (;;) end.send(end.recv<std::vector<int>>());
        } catch (const sidestep::EndOfStream&) {
        }
    });
    for (auto _ : state) {
        here.send(numbers);
        numbers = here.recv<std::vector<int>>();
    }
    here.close();
    echo.join();
    state.SetItemsProcessed(state.iterations());
}

BENCHMARK_TEMPLATE(one_thread, BareSocket)->Arg(64)->Arg(4096)->Arg(64 << 10);
BENCHMARK_TEMPLATE(one_thread, FramedSocket)->Arg(64)->Arg(4096)->Arg(64 << 10);
BENCHMARK_TEMPLATE(round_trip, BareSocket)->Arg(64)->Arg(4096)->Arg(1 << 20)->UseRealTime();
BENCHMARK_TEMPLATE(round_trip, FramedSocket)->Arg(64)->Arg(4096)->Arg(1 << 20)->UseRealTime();
BENCHMARK_TEMPLATE(stream, BareSocket)->Arg(64)->Arg(4096)->Arg(1 << 20)->UseRealTime();
BENCHMARK_TEMPLATE(stream, FramedSocket)->Arg(64)->Arg(4096)->Arg(1 << 20)->UseRealTime();
BENCHMARK(typed_round_trip)->Arg(64)->Arg(4096)->Arg(1 << 20)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();

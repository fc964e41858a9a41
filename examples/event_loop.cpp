// A server of one thread that stays responsive: jobs go to worker processes, and its event loop
// goes on. Two clients in the same loop ask it; or, if it is given a port (0: any one), others.
#include <cstdio>
#include <string>

#include <asio.hpp>
#include <sidestep/asio.hpp>
#include <sidestep/pool.hpp>

using asio::awaitable;
using asio::use_awaitable;
using asio::ip::tcp;

int primes_below(int n) {
    int count = 0;
    for (int i = 2; i < n; ++i) {
        bool prime = true;
        for (int d = 2; prime && d * d <= i; ++d) prime = i % d != 0;
        count += prime;
    }
    return count;
}

awaitable<std::string> read_line(tcp::socket& socket, std::string& buffer) {
    const std::size_t size =
        co_await asio::async_read_until(socket, asio::dynamic_buffer(buffer), '\n', use_awaitable);
    std::string line = buffer.substr(0, size - 1);
    buffer.erase(0, size);
    co_return line;
}

// "ping" is answered at once, "primes 1000" by a worker.
awaitable<void> serve(tcp::socket client, sidestep::Pool& pool) {
    std::string buffer;
    for (;;) {
        const std::string line = co_await read_line(client, buffer);
        std::string answer = "pong";
        if (line.starts_with("primes ")) {
            auto count = pool.submit(primes_below, std::stoi(line.substr(7)));
            answer = std::to_string(co_await async_get(count, use_awaitable));
        }
        co_await asio::async_write(client, asio::buffer(answer += '\n'), use_awaitable);
    }
}

awaitable<void> listen(tcp::acceptor& acceptor, sidestep::Pool& pool) {
    for (;;) {
        tcp::socket client = co_await acceptor.async_accept(use_awaitable);
        // The end of a client ends its coroutine, with an error.
        asio::co_spawn(acceptor.get_executor(), serve(std::move(client), pool), asio::detached);
    }
}

awaitable<void> ask(tcp::endpoint server, std::string question, std::string& answer) {
    tcp::socket socket(co_await asio::this_coro::executor);
    co_await socket.async_connect(server, use_awaitable);
    co_await asio::async_write(socket, asio::buffer(question += '\n'), use_awaitable);
    std::string buffer;
    answer = co_await read_line(socket, buffer);
}

int main(int argc, char** argv) {
    sidestep::init();
    sidestep::Pool pool({.processes = 2});
    asio::io_context loop;
    const auto port = static_cast<asio::ip::port_type>(argc > 1 ? std::stoi(argv[1]) : 0);
    tcp::acceptor acceptor(loop, {asio::ip::address_v4::loopback(), port});
    asio::co_spawn(loop, listen(acceptor, pool), asio::detached);
    const tcp::endpoint server = acceptor.local_endpoint();
    if (argc > 1) {
        std::fprintf(stderr, "port %d\n", server.port());
        loop.run();  // until it is killed
    }

    std::string primes, pong;
    int open = 2;
    auto finished = [&](std::exception_ptr) {
        if (--open == 0) acceptor.close();
    };
    asio::co_spawn(loop, ask(server, "primes 100000", primes), finished);
    asio::co_spawn(loop, ask(server, "ping", pong), finished);
    loop.run();
    std::printf("%s primes, and %s\n", primes.c_str(), pong.c_str());
}

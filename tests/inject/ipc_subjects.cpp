// Processes that talk, wait for each other and share memory.
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <thread>
#include <utility>

#include <sidestep/connection.hpp>
#include <sidestep/listener.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/shared.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/sync.hpp>

#include "subjects.hpp"

using namespace std::chrono_literals;

namespace subjects {
namespace {

using Strings = sidestep::Queue<std::string>;

void partner(Strings in, Strings out, sidestep::Lock lock, sidestep::Condition condition,
             sidestep::Barrier barrier, sidestep::Event event, sidestep::Value<int> value,
             sidestep::Semaphore semaphore) {
    event.set();
    barrier.wait();
    for (int i = 0; i < 20; ++i) {
        std::scoped_lock hold(lock);
        ++value.value();
    }
    while (auto text = in.get_for(patience())) {
        if (*text == "end") break;
        out.put(*text + "!");
    }
    {
        std::scoped_lock hold(condition);
        value.value() = 1000;
        condition.notify_all();
    }
    semaphore.release();
    barrier.wait();
}

void meet(sidestep::StartMethod method) {
    Strings in(4), out(4);
    sidestep::Lock lock;
    sidestep::Condition condition;
    sidestep::Barrier barrier(2, {.timeout = patience()});
    sidestep::Event event;
    sidestep::Value<int> value(0);
    sidestep::Semaphore semaphore(0);
    sidestep::Process child(sidestep::ProcessOptions{.daemon = true, .start_method = method},
                            partner, in, out, lock, condition, barrier, event, value, semaphore);
    child.start();
    expect_came(event.wait_for(patience()), "the event");
    barrier.wait();
    for (int i = 0; i < 20; ++i) {
        std::scoped_lock hold(lock);
        ++value.value();
    }
    for (int i = 0; i < 10; ++i) {
        in.put(std::string(20000, 'q'));
        auto echo = out.get_for(patience());
        expect_came(echo.has_value(), "an echo");
        expect(echo->size() == 20001, "the length of an echo");
    }
    {
        std::unique_lock hold(condition);
        in.put("end");
        expect_came(condition.wait_for(patience(), [&] { return value.value() == 1000; }),
                    "the condition");
    }
    expect_came(semaphore.try_acquire_for(patience()), "the semaphore");
    barrier.wait();
    child.join();
    expect_came(child.exitcode() == 0, "the partner's exit code 0");
}

void watch_a_queue() {
    sidestep::Queue<int> queue(4);
    expect(queue.fd() >= 0, "the queue's descriptor");
    queue.put(1);
    expect(queue.get() == 1 && !queue.try_get(), "the queue's item");
}

void visit(sidestep::Address address) {
    auto connection = sidestep::Client(address, {.authkey = "key"});
    connection.send(std::string(300000, 'e'));
    auto text = connection.recv<std::string>();
    connection.send(static_cast<int>(text.size()));
    if (!connection.carries_fds()) return;
    auto pipe = sidestep::recv_handle(connection);
    while (write(pipe.fd(), "z", 1) != 1)
        if (errno != EINTR) std::exit(7);
}

void receive_through_a_pipe(sidestep::Connection& connection) {
    int ends[2];
    if (pipe(ends) != 0) throw std::runtime_error("the subject's own pipe");
    struct Ends {
        int* fds;
        ~Ends() {
            close(fds[0]);
            if (fds[1] >= 0) close(fds[1]);
        }
    } closer{ends};
    sidestep::send_handle(connection, ends[1]);
    close(std::exchange(ends[1], -1));  // or the end of a visitor that wrote nothing is not seen
    char byte = 0;
    ssize_t got = 0;
    do got = read(ends[0], &byte, 1);
    while (got < 0 && errno == EINTR);
    expect_came(got == 1, "the byte through the descriptor that was sent");
    expect(byte == 'z', "the byte through the descriptor that was sent");
}

void serve(const sidestep::Address& address) {
    sidestep::Listener listener(
        {.address = address, .authkey = "key", .handshake_timeout = patience()});
    sidestep::Process child(sidestep::ProcessOptions{.daemon = true}, visit, listener.address());
    child.start();
    auto connection = listener.accept_for(patience());
    expect_came(connection.has_value(), "the visitor");
    expect(connection->recv<std::string>().size() == 300000, "a large message");
    connection->send(std::string(200000, 's'));
    expect(connection->recv<int>() == 200000, "the answer to it");
    if (connection->carries_fds()) receive_through_a_pipe(*connection);
    child.join();
    expect_came(child.exitcode() == 0, "the visitor's exit code 0");
}

void refuse_a_key() {
    sidestep::Listener listener({.authkey = "key"});
    bool let_in = false;
    std::jthread client([&] {
        try {
            auto connection =
                sidestep::Client(listener.address(), {.authkey = "other", .timeout = patience()});
            let_in = true;
        } catch (const std::exception&) {
        }
    });
    try {
        let_in = listener.accept_for(500ms).has_value() || let_in;
    } catch (const sidestep::AuthenticationError&) {
    }
    client.join();
    expect(!let_in, "a client with another key was let in");
}

void share_without_a_name() {
    sidestep::SharedMemory mine(sidestep::create_only, 100000);
    mine.bytes()[5] = std::byte(7);
    sidestep::SharedMemory theirs(sidestep::open_only, mine.name());
    expect(theirs.bytes()[5] == std::byte(7), "a byte of shared memory");
}

// What a failed share_by_name() kept is kept by request.
void remove_the_name() {
    try {
        sidestep::SharedMemory(sidestep::open_only, "inject").unlink();
    } catch (const std::system_error& e) {
        if (e.code().value() != ENOENT) throw;
    }
}

void share_by_name() {
    remove_the_name();
    {
        sidestep::SharedMemory kept(sidestep::create_only, "inject", 5000, {.keep_name = true});
        kept.bytes()[4999] = std::byte(9);
    }
    sidestep::SharedMemory found(sidestep::open_or_create, "inject", 5000);
    expect(found.bytes()[4999] == std::byte(9), "a byte that was kept");
    found.unlink();
    expect_throw<std::system_error>(
        [] { sidestep::SharedMemory gone(sidestep::open_only, "inject"); }, "a name that is gone");
}

}  // namespace

void use_locks() {
    step_twice("spawn", [] { meet(sidestep::StartMethod::spawn); });
    step_twice("fork beside threads", [] { meet(sidestep::StartMethod::fork_threaded); });
    step_twice("fd", watch_a_queue);
}

void use_connections() {
    step_twice("abstract", [] { serve(sidestep::UnixAddress{}); });
    step_twice("path", [] { serve(sidestep::UnixAddress{"/dev/shm/socket"}); });
    step_twice("tcp", [] { serve(sidestep::TcpAddress{}); });
    step_twice("key", refuse_a_key);
}

void remove_what_is_kept() { remove_the_name(); }

void use_shared_memory() {
    step_twice("without a name", share_without_a_name);
    step_twice("by name", share_by_name);
    step_twice("remove", remove_the_name);
    step_twice("stale names", [] { (void)sidestep::remove_stale_names(); });
    step_twice("array", [] {
        sidestep::Array<double> field(100000);
        field[3] = 2;
        expect(field[3] == 2, "an element");
    });
}

}  // namespace subjects

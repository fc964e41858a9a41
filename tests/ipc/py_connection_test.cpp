// The contracts of CPython's tests of Pipe() and Connection.
#include <sidestep/connection.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <fstream>
#include <sstream>
#include <thread>

#include "connection_support.hpp"

namespace py_connection_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::ForkedChild;

namespace {

// Echoes until an empty message.
int echo(Connection& connection) {
    for (;;) {
        std::string message = connection.recv_bytes();
        if (message.empty()) break;
        connection.send_bytes(message);
    }
    connection.close();
    return 0;
}

std::string read_file(const std::string& path) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    return text.str();
}

// A number beyond the first 256.
int move_beyond_256(int fd) {
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 300);
    close(fd);
    return moved;
}

// The child receives a descriptor and writes `text` to it. `crowded`: numbers below 256 are taken.
int write_to_received(Connection& connection, const std::string& text, bool crowded) {
    if (crowded)
        for (int i = 0; i < 256; ++i)
            if (fcntl(i, F_GETFD) < 0) dup2(connection.fd(), i);
    DupFd fd = recv_handle(connection);
    if (crowded && fd.fd() < 256) return 2;
    return ::write(fd.fd(), text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 3;
}

template <class T, std::size_t n>
std::span<std::byte> bytes_of(std::array<T, n>& values) {
    return std::as_writable_bytes(std::span(values));
}

}  // namespace

TEST_CASE("objects, bytes, bytes into a buffer, polls and 16 MiB go to a process and back",
          "[ipc][connection][py:_TestConnection.test_connection]") {
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&parent_end = conn, &end = child_conn] {
        parent_end.close();
        return echo(end);
    });
    CHECK(conn.fd() >= 0);
    auto value = std::make_tuple(1, 2.25, std::optional<int>());
    conn.send(value);
    CHECK(conn.recv<decltype(value)>() == value);
    conn.send_bytes("hello world");
    CHECK(conn.recv_bytes() == "hello world");

    std::array<int, 4> numbers = {0, 1, 2, 3};
    std::array<int, 10> buffer = {};
    conn.send_bytes(bytes_of(numbers));
    CHECK(conn.recv_bytes_into(bytes_of(buffer)) == sizeof numbers);
    CHECK(buffer == std::array<int, 10>{0, 1, 2, 3});
    buffer = {};
    conn.send_bytes(bytes_of(numbers));
    CHECK(conn.recv_bytes_into(bytes_of(buffer), 3 * sizeof(int)) == sizeof numbers);
    CHECK(buffer == std::array<int, 10>{0, 0, 0, 0, 1, 2, 3});

    std::string long_message(110, 'x');
    std::array<char, 40> small = {};
    conn.send_bytes(long_message);
    try {
        conn.recv_bytes_into(bytes_of(small));
        FAIL("110 bytes fitted 40");
    } catch (const BufferTooShort& error) {
        CHECK(error.message() == long_message);
    }

    CHECK_FALSE(conn.poll());
    CHECK_FALSE(conn.poll(-1s));
    auto start = std::chrono::steady_clock::now();
    CHECK_FALSE(conn.poll(50ms));
    CHECK(std::chrono::steady_clock::now() - start >= 50ms);
    conn.send(0);
    CHECK(conn.poll(test::kPatience));
    CHECK(conn.recv<int>() == 0);

    std::string really_big(16 << 20, 'X');
    conn.send_bytes(really_big);
    CHECK(conn.recv_bytes() == really_big);

    conn.send_bytes("");
    child_conn.close();
    CHECK(conn.readable());
    CHECK(conn.writable());
    CHECK_THROWS_AS(conn.recv<int>(), EndOfStream);
    CHECK_THROWS_AS(conn.recv_bytes(), EndOfStream);
    CHECK(child.join() == 0);
}

TEST_CASE("a one-way pipe: the first end only receives, the second only sends",
          "[ipc][connection][py:_TestConnection.test_duplex_false]") {
    auto [reader, writer] = Pipe({.duplex = false});
    writer.send(1);
    CHECK(reader.recv<int>() == 1);
    CHECK(reader.readable());
    CHECK_FALSE(reader.writable());
    CHECK_FALSE(writer.readable());
    CHECK(writer.writable());
    CHECK_THROWS_AS(reader.send(2), std::system_error);
    CHECK_THROWS_AS(writer.recv<int>(), std::system_error);
    CHECK_THROWS_AS(writer.poll(), std::system_error);
    writer.send(3);  // the attempts have changed nothing
    CHECK(reader.recv<int>() == 3);
}

TEST_CASE("the parent may close the child's end as soon as the child is started",
          "[ipc][connection][py:_TestConnection.test_spawn_close]") {
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&end = child_conn] { return echo(end); });
    child_conn.close();
    conn.send_bytes("hello");
    CHECK(conn.recv_bytes() == "hello");
    conn.send_bytes("");
    conn.close();
    CHECK(child.join() == 0);
}

TEST_CASE("send_bytes sends a part of a buffer, and only what lies within it",
          "[ipc][connection][py:_TestConnection.test_sendbytes]") {
    std::string letters = "abcdefghijklmnopqrstuvwxyz";
    auto [a, b] = Pipe();
    a.send_bytes(letters);
    CHECK(b.recv_bytes() == letters);
    a.send_bytes(letters, 5);
    CHECK(b.recv_bytes() == letters.substr(5));
    a.send_bytes(letters, 7, 8);
    CHECK(b.recv_bytes() == letters.substr(7, 8));
    a.send_bytes(letters, 26);
    CHECK(b.recv_bytes().empty());
    a.send_bytes(letters, 26, 0);
    CHECK(b.recv_bytes().empty());
    const auto minus_one = static_cast<std::size_t>(-1);
    CHECK_THROWS_AS(a.send_bytes(letters, 27), std::invalid_argument);
    CHECK_THROWS_AS(a.send_bytes(letters, 22, 5), std::invalid_argument);
    CHECK_THROWS_AS(a.send_bytes(letters, 26, 1), std::invalid_argument);
    CHECK_THROWS_AS(a.send_bytes(letters, minus_one), std::invalid_argument);
    CHECK_THROWS_AS(a.send_bytes(letters, 4, minus_one), std::invalid_argument);
    CHECK_FALSE(b.poll());
}

TEST_CASE("a descriptor sent with send_handle is the receiver's to write to",
          "[ipc][fds][py:_TestConnection.test_fd_transfer]") {
    test::TemporaryFolder folder;
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&end = child_conn] { return write_to_received(end, "foo", false); });
    DupFd file(open(folder.file("out").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    send_handle(conn, file.fd());
    CHECK(child.join() == 0);
    CHECK(read_file(folder.file("out")) == "foo");
}

TEST_CASE("descriptors numbered beyond 256 travel, to a number beyond 256 too",
          "[ipc][fds][py:_TestConnection.test_large_fd_transfer]") {
    test::TemporaryFolder folder;
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&end = child_conn] { return write_to_received(end, "bar", true); });
    DupFd file(
        move_beyond_256(open(folder.file("out").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
    REQUIRE(file.fd() >= 300);
    send_handle(conn, file.fd());
    CHECK(child.join() == 0);
    CHECK(read_file(folder.file("out")) == "bar");
}

TEST_CASE("receiving a descriptor where only a byte came is an error",
          "[ipc][fds][py:_TestConnection.test_missing_fd_transfer]") {
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&end = child_conn] { return ::write(end.fd(), "\0", 1) == 1 ? 0 : 1; });
    CHECK_THROWS_AS(recv_handle(conn), std::runtime_error);
    CHECK(child.join() == 0);
}

TEST_CASE("connections are closed at the end of their scope",
          "[ipc][connection][py:_TestConnection.test_context]") {
    int numbers[2] = {-1, -1};
    {
        auto [a, b] = Pipe();
        a.send(1729);
        CHECK(b.recv<int>() == 1729);
        CHECK_FALSE(a.closed());
        CHECK_FALSE(b.closed());
        numbers[0] = a.fd();
        numbers[1] = b.fd();
    }
    CHECK(fcntl(numbers[0], F_GETFD) < 0);
    CHECK(fcntl(numbers[1], F_GETFD) < 0);
    auto [a, b] = Pipe();
    a.close();
    b.close();
    CHECK(a.closed());
    CHECK_THROWS_AS(a.recv<int>(), std::system_error);
    CHECK_THROWS_AS(b.recv<int>(), std::system_error);
}

TEST_CASE("an empty message makes poll true, and polling again keeps it so",
          "[ipc][connection][py:_TestPoll.test_empty_string]") {
    auto [a, b] = Pipe();
    CHECK_FALSE(a.poll());
    b.send_bytes("");
    CHECK(a.poll());
    CHECK(a.poll());
    CHECK(a.recv_bytes().empty());
    CHECK_FALSE(a.poll());
}

TEST_CASE("polling between messages, empty ones among them, loses and merges none",
          "[ipc][connection][py:_TestPoll.test_strings]") {
    const std::string strings[] = {"hello", "", "a", "b", "", "bye", "", "lop"};
    auto [a, b] = Pipe();
    ForkedChild child([&strings, &end = b] {
        for (const std::string& text : strings) end.send_bytes(text);
        return 0;
    });
    for (const std::string& text : strings) {
        CHECK(a.poll(test::kPatience));
        CHECK(a.recv_bytes() == text);
    }
    CHECK(child.join() == 0);
}

TEST_CASE("polling in one process takes no part of a message from another",
          "[ipc][connection][py:_TestPoll.test_boundaries]") {
    auto [reader, writer] = Pipe({.duplex = false});
    ForkedChild child([&end = reader] { return end.poll(test::kPatience) ? 0 : 1; });
    writer.send_bytes("first");
    writer.send_bytes("second");
    writer.close();
    CHECK(child.join() == 0);
    CHECK(reader.recv_bytes() == "first");
    CHECK(reader.recv_bytes() == "second");
}

TEST_CASE("messages that are here together are received one by one",
          "[ipc][connection][py:_TestPoll.test_dont_merge]") {
    auto [a, b] = Pipe();
    CHECK_FALSE(a.poll(0s));
    CHECK_FALSE(a.poll(10ms));
    ForkedChild child([&end = b] {
        for (const char* text : {"a", "b", "cd"}) end.send_bytes(text);
        return 0;
    });
    CHECK(a.recv_bytes() == "a");
    CHECK(a.poll(test::kPatience));
    CHECK(a.poll(test::kPatience));
    CHECK(a.recv_bytes() == "b");
    CHECK(a.poll(test::kPatience));
    CHECK(a.poll(test::kPatience));
    CHECK(child.join() == 0);
    CHECK(a.poll(0s));
    CHECK(a.recv_bytes() == "cd");
}

namespace {

// Sends its addresses, then the connections that came to them.
int serve_and_pass_on(Connection& conn, const std::vector<Address>& families) {
    for (const Address& family : families) {
        Listener listener({.address = family});
        conn.send(listener.address());
        conn.send(listener.accept());
    }
    conn.recv_bytes();
    return 0;
}

int answer_at_addresses(Connection& conn) {
    for (;;) {
        auto [address, message] = conn.recv<std::pair<std::optional<Address>, std::string>>();
        if (!address) return 0;
        for (char& c : message) c = static_cast<char>(std::toupper(c));
        Client(*address).send(message);
    }
}

}  // namespace

TEST_CASE("a connection of any family can be sent through a connection and be used there",
          "[ipc][fds][py:_TestPicklingConnections.test_pickling]") {
    std::vector<Address> families = {TcpAddress{}, UnixAddress{}};
    auto [listening, listening_child] = Pipe();
    auto [remote, remote_child] = Pipe();
    ForkedChild listener(
        [&families, &end = listening_child] { return serve_and_pass_on(end, families); });
    ForkedChild answerer([&end = remote_child] { return answer_at_addresses(end); });
    using Question = std::pair<std::optional<Address>, std::string>;
    for (const Address& family : families) {
        std::string message = "this connection uses " + std::to_string(family.index());
        remote.send(Question{listening.recv<Address>(), message});
        auto passed_on = listening.recv<Connection>();
        for (char& c : message) c = static_cast<char>(std::toupper(c));
        CHECK(passed_on.recv<std::string>() == message);
    }
    remote.send(Question{});
    listening.send_bytes("");
    CHECK(listener.join() == 0);
    CHECK(answerer.join() == 0);
}

TEST_CASE("an end of a one-way pipe that was sent keeps its direction, and can be closed here",
          "[ipc][fds][py:_TestPicklingConnections.test_access]") {
    auto [conn, child_conn] = Pipe();
    ForkedChild child([&end = child_conn] {
        auto writer = end.recv<Connection>();
        writer.send(std::string("all is well"));
        writer.close();
        auto reader = end.recv<Connection>();
        end.send(reader.recv<std::string>() + "!");
        return !reader.writable() && !writer.readable() ? 0 : 1;
    });
    auto [r1, w1] = Pipe({.duplex = false});
    conn.send(w1);
    w1.close();
    CHECK(r1.recv<std::string>() == "all is well");
    auto [r2, w2] = Pipe({.duplex = false});
    conn.send(r2);
    r2.close();
    w2.send(std::string("foobar"));
    CHECK(conn.recv<std::string>() == "foobar!");
    CHECK(child.join() == 0);
}

TEST_CASE("a number that is no descriptor is an error, when it is given and when it goes bad",
          "[ipc][connection][py:TestInvalidHandle.test_invalid_handles]") {
    CHECK_THROWS_AS(Connection(44977608), std::system_error);
    CHECK_THROWS_AS(Connection(-1), std::invalid_argument);
    auto [a, b] = Pipe();
    int number = a.fd();
    ::close(number);
    CHECK_THROWS_AS(a.poll(), std::system_error);
    CHECK_THROWS_AS(wait({a}, 0s), std::system_error);
    REQUIRE(dup2(b.fd(), number) == number);  // so that closing it closes what is ours
}

}  // namespace py_connection_test

#include <sidestep/connection.hpp>

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <sidestep/barrier.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/semaphore.hpp>

#include <catch2/catch.hpp>
#include <list>
#include <map>
#include <thread>

#include "connection/frame.hpp"
#include "connection_support.hpp"

namespace connection_test {

using namespace sidestep;
using namespace std::chrono_literals;
using test::RawPeer;

namespace {

std::error_code error_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const std::system_error& error) {
        return error.code();
    }
    return {};
}

bool is_error(const std::function<void()>& call, std::errc expected) {
    return error_of(call) == expected;
}

}  // namespace

TEST_CASE("a short frame is a big-endian length and the bytes, as Python writes it",
          "[ipc][connection]") {
    RawPeer peer;
    peer.connection().send_bytes("hello");
    CHECK(peer.read(9) == std::string("\0\0\0\5hello", 9));
    peer.connection().send_bytes("");
    CHECK(peer.read(4) == std::string(4, '\0'));
    peer.write(std::string("\0\0\0\2ok", 6));
    CHECK(peer.connection().recv_bytes() == "ok");
}

TEST_CASE("lengths beyond 2^31-1 have the long header, and a short one may have it too",
          "[ipc][connection]") {
    CHECK(encode_header(INT32_MAX).size == 4);
    FrameHeader header = encode_header(std::uint64_t(INT32_MAX) + 1);
    std::string bytes(reinterpret_cast<const char*>(header.bytes), header.size);
    CHECK(bytes == test::big_endian(0xffffffff, 4) + test::big_endian(std::uint64_t(1) << 31, 8));
    RawPeer peer;
    peer.write(test::big_endian(0xffffffff, 4) + test::big_endian(5, 8) + "hello");
    CHECK(peer.connection().recv_bytes() == "hello");
}

TEST_CASE("messages of any size around the internal limits arrive whole", "[ipc][connection]") {
    auto [here, there] = Pipe();
    std::vector<std::size_t> sizes;
    for (std::size_t limit : {std::size_t(8) << 10, std::size_t(32) << 10, std::size_t(128) << 10,
                              std::size_t(256) << 10, std::size_t(3) << 20})
        for (std::size_t size : {limit - 5, limit - 4, limit - 1, limit, limit + 1})
            sizes.push_back(size);
    std::thread sender([&sizes, &end = there] {
        for (std::size_t size : sizes) {
            std::string message(size, static_cast<char>('a' + size % 26));
            end.send_bytes(message);
            end.send(message);
            end.send_bytes(message);
        }
    });
    bool all_equal = true;
    for (std::size_t size : sizes) {
        std::string expected(size, static_cast<char>('a' + size % 26)), buffer(size + 1, '-');
        all_equal = all_equal && here.recv_bytes() == expected;
        all_equal = all_equal && here.recv<std::string>() == expected;
        auto bytes = std::as_writable_bytes(std::span(buffer));
        all_equal = all_equal && here.recv_bytes_into(bytes) == size && buffer == expected + "-";
    }
    sender.join();
    CHECK(all_equal);
}

TEST_CASE("a frame that arrives byte by byte is a message like any other", "[ipc][connection]") {
    RawPeer peer;
    std::string frames = test::frame("one") + test::frame("") + test::frame("three");
    std::thread sender([&] {
        for (char c : frames) peer.write(std::string(1, c));
    });
    CHECK(peer.connection().recv_bytes() == "one");
    CHECK(peer.connection().recv_bytes().empty());
    CHECK(peer.connection().recv_bytes() == "three");
    sender.join();
}

TEST_CASE("values of every kind travel; what is no such value is a SerializationError",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    std::map<std::string, std::vector<double>> value = {{"a", {1.5, 2.5}}, {"b", {}}};
    here.send(value);
    CHECK(there.recv<decltype(value)>() == value);
    here.send("a literal");
    CHECK(there.recv<std::string>() == "a literal");
    here.send(std::string_view("a view"));
    CHECK(there.recv<std::string>() == "a view");
    here.send(1);
    CHECK_THROWS_AS(there.recv<std::string>(), SerializationError);
    here.send(std::string("left over"));
    CHECK_THROWS_AS(there.recv<char>(), SerializationError);
    here.send(2);  // the message that could not be read is gone, the next is there
    CHECK(there.recv<int>() == 2);
}

TEST_CASE("a value is received as what was sent, not as another type of its size",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    auto is_refused = [&end = there](auto expected) {
        CHECK_THROWS_WITH(end.template recv<decltype(expected)>(),
                          Catch::Contains("a value of another type came"));
    };
    here.send(1);
    is_refused(1u);
    here.send(1);
    is_refused(1.0f);
    here.send(std::errc::invalid_argument);
    is_refused(1);
    here.send(std::pair<int, int>(1, 2));
    is_refused(std::uint64_t());
    here.send(std::vector<int>{1, 2});
    is_refused(std::vector<unsigned>());
    here.send(std::vector<int>{1, 2});
    is_refused(std::list<int>());
    here.send(std::string(8, 'x'));
    is_refused(std::vector<char>());
    here.send(Lock());
    is_refused(Semaphore(1));
    here.send(2);
    CHECK(there.recv<int>() == 2);
}

TEST_CASE("bytes without a type, and a Python pickle, are named in the error",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    here.send_bytes(std::string_view("\1\0\0\0", 4));
    CHECK_THROWS_WITH(there.recv<int>(),
                      Catch::Contains("4 bytes without a type") && Catch::Contains("recv_bytes()"));
    here.send_bytes("");
    CHECK_THROWS_WITH(there.recv<int>(), Catch::Contains("0 bytes without a type"));
    // [1, 'two'] by each protocol since the second.
    for (std::string pickle : {std::string("\x80\x02]q\0(K\1X\3\0\0\0twoq\1e.", 20),
                               std::string("\x80\x03]q\0(K\1X\3\0\0\0twoq\1e.", 20),
                               std::string("\x80\4\x95\r\0\0\0\0\0\0\0]\x94(K\1\x8c\3two\x94"
                                           "e.",
                                           24),
                               std::string("\x80\5K\1.", 5)}) {
        here.send_bytes(pickle);
        CHECK_THROWS_WITH(there.recv<std::vector<std::string>>(),
                          Catch::Contains("Python pickle") && Catch::Contains("send_bytes()"));
    }
    here.send_bytes("bytes are as they were");
    CHECK(there.recv_bytes() == "bytes are as they were");
    here.send(1.5);
    CHECK(there.recv<double>(sizeof(double)) == 1.5);  // the limit is of the value
}

namespace {

struct Hidden {
    Bound<int (*)(int), int> call;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(call);
    }
};
int itself(int n) { return n; }

}  // namespace

TEST_CASE("code does not come in a message: function pointers, a barrier's action",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    here.send(Hidden{bind(&itself, 1)});
    CHECK_THROWS_WITH(there.recv<Hidden>(), Catch::Contains("could name any function"));
    here.send(Barrier(1, [] {}));
    CHECK_THROWS_WITH(there.recv<Barrier>(), Catch::Contains("could name any code"));
    Barrier plain(1);
    here.send(plain);
    CHECK(there.recv<Barrier>() == plain);
    Queue<Hidden> queue;
    queue.put(Hidden{bind(&itself, 1)});
    CHECK_THROWS_WITH(queue.get(), Catch::Contains("could name any function"));
}

TEST_CASE("the end of the stream comes after all messages, a cut-off message is an error",
          "[ipc][connection]") {
    RawPeer whole;
    whole.write_frame("last");
    whole.close();
    CHECK(whole.connection().poll(test::kPatience));
    CHECK(whole.connection().recv_bytes() == "last");
    CHECK(whole.connection().poll());
    CHECK_THROWS_AS(whole.connection().recv_bytes(), EndOfStream);
    CHECK_THROWS_AS(whole.connection().recv<int>(), EndOfStream);

    for (std::size_t cut = 1; cut < 9; ++cut) {
        RawPeer peer;
        peer.write(test::frame("hello").substr(0, cut));
        peer.close();
        CHECK(is_error([&] { peer.connection().recv_bytes(); }, std::errc::connection_reset));
        CHECK_FALSE(peer.connection().readable());
    }
}

TEST_CASE("a peer that dies with messages unread is the end of the stream", "[ipc][connection]") {
    auto [here, there] = Pipe();
    here.send(1);
    there.send(2);
    there.close();
    CHECK(here.recv<int>() == 2);
    CHECK_THROWS_AS(here.recv<int>(), EndOfStream);
}

TEST_CASE("a receive that fails before the first byte of a message can be called again",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    here.send(1);
    // As if the system had no memory for the call: its number means something else for a moment.
    DupFd stream = DupFd::duplicate_of(there.fd()), no_socket(open("/dev/null", O_WRONLY));
    REQUIRE(dup2(no_socket.fd(), there.fd()) == there.fd());
    CHECK_THROWS_AS(there.recv<int>(), std::system_error);
    REQUIRE(dup3(stream.fd(), there.fd(), O_CLOEXEC) == there.fd());
    CHECK(there.readable());
    CHECK(there.recv<int>() == 1);
}

TEST_CASE("sending to a closed peer is EPIPE and no SIGPIPE", "[ipc][connection]") {
    auto [here, there] = Pipe();
    there.close();
    CHECK(is_error([&end = here] { end.send_bytes("x"); }, std::errc::broken_pipe));
    int fds[2];
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    ::close(fds[0]);
    Connection plain(fds[1], Direction::send_only);
    CHECK(is_error([&] { plain.send_bytes("x"); }, std::errc::broken_pipe));
    sigset_t pending;
    sigpending(&pending);
    CHECK(sigismember(&pending, SIGPIPE) == 0);
}

TEST_CASE("limits: a message of the limit is received, one byte more is refused for good",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    here.send_bytes("12345");
    here.send_bytes("123456");
    CHECK(there.recv_bytes(5) == "12345");
    CHECK(is_error([&end = there] { end.recv_bytes(5); }, std::errc::message_size));
    CHECK_FALSE(there.readable());
    CHECK(there.writable());
    CHECK(is_error([&end = there] { end.recv_bytes(); }, std::errc::bad_file_descriptor));
    there.send_bytes("still sends");
    CHECK(here.recv_bytes() == "still sends");

    auto [reader, writer] = Pipe({.duplex = false});
    writer.send_bytes("too long");
    CHECK(is_error([&end = reader] { end.recv_bytes(2); }, std::errc::message_size));
    CHECK(reader.closed());  // nothing is left that it could do
}

TEST_CASE("a length is believed only as far as bytes arrive", "[ipc][connection]") {
    test::reset_peak_memory();
    long before = test::peak_memory_kb();
    for (std::uint64_t length : {std::uint64_t(1) << 40, std::uint64_t(INT64_MAX)}) {
        RawPeer peer;
        peer.write(test::big_endian(0xffffffff, 4) + test::big_endian(length, 8) + "some bytes");
        peer.close();
        CHECK(is_error([&] { peer.connection().recv_bytes(); }, std::errc::connection_reset));
        RawPeer typed;
        typed.write(test::big_endian(0xffffffff, 4) + test::big_endian(length, 8) + "some bytes");
        typed.close();
        CHECK(is_error([&] { typed.connection().recv<int>(); }, std::errc::connection_reset));
    }
    // 16 MiB are reserved, which Meson's MALLOC_PERTURB_ touches.
    CHECK(test::peak_memory_kb() - before < 32 << 10);
    for (std::uint64_t length : {std::uint64_t(1) << 63, UINT64_MAX}) {
        RawPeer peer;
        peer.write(test::big_endian(0xffffffff, 4) + test::big_endian(length, 8));
        CHECK(is_error([&] { peer.connection().recv_bytes(); }, std::errc::bad_message));
    }
    for (std::uint64_t length : {std::uint64_t(0x80000000), std::uint64_t(0xfffffffe)}) {
        RawPeer peer;
        peer.write(test::big_endian(length, 4));
        CHECK(is_error([&] { peer.connection().recv_bytes(); }, std::errc::bad_message));
    }
}

TEST_CASE("a buffer that is too short: the exception has the message, the next one is received",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    here.send_bytes("0123456789");
    here.send_bytes("ok");
    std::byte buffer[4];
    try {
        there.recv_bytes_into(buffer);
        FAIL("nothing was thrown");
    } catch (const BufferTooShort& error) {
        CHECK(error.message() == "0123456789");
    }
    CHECK(there.recv_bytes_into(buffer, 2) == 2);
    CHECK(std::string(reinterpret_cast<char*>(buffer) + 2, 2) == "ok");
    CHECK_THROWS_AS(there.recv_bytes_into(buffer, 5), std::invalid_argument);
    here.send_bytes("");
    CHECK(there.recv_bytes_into(buffer, 4) == 0);
}

TEST_CASE("a plain pipe and a non-blocking socket carry messages as well", "[ipc][connection]") {
    int fds[2];
    REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
    Connection reader(fds[0], Direction::receive_only), writer(fds[1], Direction::send_only);
    std::string large(1 << 20, 'x');
    std::thread sender([&] {
        writer.send_bytes(large);
        writer.send(std::vector<int>{1, 2});
    });
    CHECK(reader.recv_bytes() == large);
    CHECK(reader.recv<std::vector<int>>() == std::vector<int>{1, 2});
    sender.join();
    CHECK_THROWS_AS(writer.send(DupFd::duplicate_of(0)), SerializationError);

    RawPeer peer;
    fcntl(peer.connection().fd(), F_SETFL, O_NONBLOCK);
    std::thread echo([&] { peer.write_frame(peer.read_frame()); });
    peer.connection().send_bytes(large);
    CHECK(peer.connection().recv_bytes() == large);
    echo.join();
}

TEST_CASE("poll and wait see what was read ahead", "[ipc][connection][wait]") {
    auto [here, there] = Pipe();
    CHECK_FALSE(there.buffered());
    here.send(1);
    here.send(2);
    CHECK(there.recv<int>() == 1);
    CHECK(there.buffered());
    CHECK(there.poll());
    auto ready = wait({there, here}, 0s);
    REQUIRE(ready.size() == 1);
    CHECK(ready[0] == there);
    CHECK_THROWS_AS(there.release(), std::logic_error);
    CHECK(there.recv<int>() == 2);
    CHECK_FALSE(there.buffered());
    CHECK_FALSE(there.poll());
    ::close(there.release());
}

TEST_CASE("a moved connection is whole, what is left behind is closed", "[ipc][connection]") {
    auto [here, there] = Pipe();
    there.send(1);
    there.send(2);
    CHECK(here.recv<int>() == 1);
    Connection moved = std::move(here);
    CHECK(moved.recv<int>() == 2);  // it was read ahead
    CHECK(here.closed());           // NOLINT(bugprone-use-after-move): that is the question
    CHECK(is_error([&end = here] { end.send(1); }, std::errc::bad_file_descriptor));
    Connection second = moved.duplicate();
    moved.close();
    second.send(3);
    CHECK(there.recv<int>() == 3);
}

TEST_CASE("send_bytes and recv may go on in two threads at once", "[ipc][connection]") {
    auto [here, there] = Pipe();
    constexpr int kMessages = 20000;
    auto pump = [](Connection& connection) {
        std::thread sender([&] {
            for (int i = 0; i < kMessages; ++i) connection.send(i);
        });
        int right = 0;
        for (int i = 0; i < kMessages; ++i) right += connection.recv<int>() == i;
        sender.join();
        return right;
    };
    int there_right = 0;
    std::thread other([&there_right, &pump, &end = there] { there_right = pump(end); });
    int here_right = pump(here);
    other.join();
    CHECK(here_right == kMessages);
    CHECK(there_right == kMessages);
}

}  // namespace connection_test

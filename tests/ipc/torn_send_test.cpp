// What becomes of a connection when a send fails in the middle of its message.
#include <sidestep/connection.hpp>

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <functional>
#include <string>
#include <system_error>
#include <thread>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace torn_send_test {

using namespace sidestep;

namespace {

// In a child whose files cannot grow beyond this: a write that goes on there fails with EFBIG.
constexpr rlim_t kMostBytes = 50000;

bool is_error(const std::function<void()>& call, std::errc expected) {
    try {
        call();
    } catch (const std::system_error& error) {
        return error.code() == expected;
    }
    return false;
}

std::string text_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "no error";
}

}  // namespace

TEST_CASE("a send that fails in the middle of its message is the last one, and says so",
          "[ipc][connection]") {
    test::SharedPage<std::array<char, 1024>> text;
    test::Child child([&] {
        ::signal(SIGXFSZ, SIG_IGN);
        struct rlimit limit = {kMostBytes, kMostBytes};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        Connection connection(::memfd_create("wire", MFD_CLOEXEC));
        connection.send_bytes("a message");
        if (!is_error([&] { connection.send_bytes(std::string(2 * kMostBytes, 'x')); },
                      std::errc::file_too_large))
            return 1;
        if (connection.writable() || !connection.readable()) return 2;
        Connection other = connection.duplicate(), moved = std::move(connection);
        for (Connection* each : {&other, &moved})
            for (int i = 0; i < 2; ++i)
                if (!is_error([&] { each->send_bytes("y"); }, std::errc::bad_file_descriptor))
                    return 3;
        std::snprintf(text->data(), text->size(), "%s", text_of([&] { moved.send(1); }).c_str());
        struct stat status = {};
        if (::fstat(moved.fd(), &status) < 0 || status.st_size != kMostBytes) return 4;
        auto pipe = Pipe();
        return text_of([&] { pipe.first.send(moved); }).find("cannot pass") == 0 ? 0 : 5;
    });
    CHECK(child.wait() == 0);
    CHECK_THAT(text->data(), Catch::Contains("in the middle of its message (File too large)") &&
                                 Catch::Contains("open a new connection"));
}

TEST_CASE("a send that fails before its first byte can be repeated", "[ipc][connection]") {
    Connection connection(::open("/dev/full", O_RDWR | O_CLOEXEC));
    for (int i = 0; i < 2; ++i)
        CHECK(is_error([&] { connection.send_bytes(std::string(100000, 'x')); },
                       std::errc::no_space_on_device));
    CHECK(connection.writable());
}

TEST_CASE("a thread that is cancelled while it sends leaves nobody waiting for the rest",
          "[ipc][connection]") {
    auto [here, there] = Pipe();
    Connection other = here.duplicate();
    std::thread sender([&, &from = here] { from.send_bytes(std::string(10 << 20, 'x')); });
    // It has filled the socket, and waits in the middle of its message.
    int before = 0, bytes = 0;
    REQUIRE(test::eventually([&, &to = there] {
        before = bytes;
        ::ioctl(to.fd(), FIONREAD, &bytes);
        return bytes > 0 && bytes == before;
    }));
    REQUIRE(::pthread_cancel(sender.native_handle()) == 0);
    sender.join();
    CHECK_FALSE(here.writable());
    CHECK_THAT(text_of([&, &from = here] { from.send(1); }), Catch::Contains("was cancelled"));
    CHECK(is_error([&] { other.send(1); }, std::errc::broken_pipe));  // the same stream
    CHECK(is_error([&, &to = there] { (void)to.recv_bytes(); }, std::errc::connection_reset));
    there.send(7);  // the other direction is as it was
    CHECK(here.recv<int>() == 7);
}

}  // namespace torn_send_test

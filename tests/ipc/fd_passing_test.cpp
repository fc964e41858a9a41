// Descriptors, connections and handles inside messages.
#include <sidestep/connection.hpp>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <catch2/catch.hpp>
#include <cstring>

#include "connection_support.hpp"
#include "sys/sys_socket.hpp"

namespace fd_passing_test {

using namespace sidestep;

namespace {

struct PipeFds {
    PipeFds() {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) != 0) std::abort();
        read_end.reset(fds[0]);
        write_end.reset(fds[1]);
    }
    std::string read() {
        char text[64];
        ssize_t n = ::read(read_end.fd(), text, sizeof text);
        return std::string(text, n > 0 ? static_cast<std::size_t>(n) : 0);
    }
    DupFd read_end, write_end;
};

void write_to(const DupFd& fd, const char* text) {
    CHECK(::write(fd.fd(), text, std::strlen(text)) == static_cast<ssize_t>(std::strlen(text)));
}

}  // namespace

TEST_CASE("a descriptor inside a message is a second one to the same file", "[ipc][fds]") {
    auto [here, there] = Pipe();
    PipeFds pipe;
    here.send(std::make_pair(std::string("take this"), DupFd::duplicate_of(pipe.write_end.fd())));
    auto [text, fd] = there.recv<std::pair<std::string, DupFd>>();
    CHECK(text == "take this");
    CHECK(fd.fd() != pipe.write_end.fd());
    CHECK((fcntl(fd.fd(), F_GETFD) & FD_CLOEXEC) != 0);
    write_to(fd, "over");
    CHECK(pipe.read() == "over");
}

TEST_CASE("descriptors stay with their message when several were read ahead", "[ipc][fds]") {
    auto [here, there] = Pipe();
    PipeFds a, b;
    here.send(1);
    here.send(a.write_end);
    here.send_bytes("");
    here.send(std::vector<int>{2, 3});
    here.send(b.write_end);
    here.send(4);
    CHECK(there.recv<int>() == 1);
    write_to(there.recv<DupFd>(), "a");
    CHECK(there.recv_bytes().empty());
    CHECK(there.recv<std::vector<int>>() == std::vector<int>{2, 3});
    write_to(there.recv<DupFd>(), "b");
    CHECK(there.recv<int>() == 4);
    CHECK(a.read() == "a");
    CHECK(b.read() == "b");
}

TEST_CASE("descriptors beside a large message, and dropped ones", "[ipc][fds]") {
    auto [here, there] = Pipe();
    PipeFds pipe;
    std::string large(3 << 20, 'x');
    test::ForkedChild child([&pipe, &large, &end = here] {
        end.send(std::make_pair(large, DupFd::duplicate_of(pipe.write_end.fd())));
        end.send(pipe.write_end);
        end.send(7);
        return 0;
    });
    auto [text, fd] = there.recv<std::pair<std::string, DupFd>>();
    CHECK(text == large);
    write_to(fd, "large");
    CHECK(pipe.read() == "large");
    there.recv_bytes();  // drops the descriptor of its message; the leak check looks for it
    CHECK(there.recv<int>() == 7);
    CHECK(child.join() == 0);
}

TEST_CASE("a connection inside a message brings what was read ahead", "[ipc][fds]") {
    auto [channel, other] = Pipe();
    auto [here, there] = Pipe();
    PipeFds pipe;
    here.send(1);
    here.send(2);
    here.send(pipe.write_end);
    CHECK(there.recv<int>() == 1);  // the two others came along
    channel.send(there);
    there.close();
    auto received = other.recv<Connection>();
    CHECK(received.recv<int>() == 2);
    write_to(received.recv<DupFd>(), "along");
    CHECK(pipe.read() == "along");
    received.send(std::string("back"));
    CHECK(here.recv<std::string>() == "back");
    auto [reader, writer] = Pipe({.duplex = false});
    channel.send(writer);
    CHECK_FALSE(other.recv<Connection>().readable());
    CHECK_THROWS_AS(channel.send(Connection()), SerializationError);
}

TEST_CASE("253 descriptors travel in one message, 254 are refused and nothing is sent",
          "[ipc][fds]") {
    auto [here, there] = Pipe();
    std::vector<DupFd> many;
    for (int i = 0; i < 253; ++i) many.push_back(DupFd::duplicate_of(0));
    here.send(many);
    CHECK(there.recv<std::vector<DupFd>>().size() == 253);
    many.push_back(DupFd::duplicate_of(0));
    CHECK_THROWS_AS(here.send(many), SerializationError);
    here.send(1);
    CHECK(there.recv<int>() == 1);
}

TEST_CASE("a descriptor that is several times in a message travels once", "[ipc][fds]") {
    auto [here, there] = Pipe();
    PipeFds pipe;
    struct Repeated {  // more often than a message has room for
        std::vector<DupFd> fds;
        void save(OutputArchive& archive) const {
            archive(std::uint64_t(300));
            for (int i = 0; i < 300; ++i) archive(fds.at(0));
        }
        void load(InputArchive& archive) {
            std::uint64_t count = 0;
            archive(count);
            fds.resize(static_cast<std::size_t>(count));
            for (DupFd& fd : fds) archive(fd);
        }
    } sent;
    sent.fds.push_back(std::move(pipe.write_end));
    here.send(sent);
    Repeated arrived = there.recv<Repeated>();
    REQUIRE(arrived.fds.size() == 300);
    CHECK(arrived.fds[0].fd() != arrived.fds[299].fd());
    arrived.fds[0].reset();  // each is its own
    write_to(arrived.fds[299], "last");
    CHECK(pipe.read() == "last");
}

TEST_CASE("descriptors do not travel over TCP: the error says what does", "[ipc][fds]") {
    Listener listener({.address = TcpAddress{}});
    Connection client = Client(listener.address());
    Connection server = listener.accept();
    CHECK_THROWS_WITH(client.send(DupFd::duplicate_of(0)), Catch::Contains("UnixAddress"));
    CHECK_THROWS_WITH(client.send(server), Catch::Contains("UnixAddress"));
    CHECK_THROWS_AS(send_handle(client, 0), SerializationError);
    CHECK_THROWS_AS(recv_handle(client), SerializationError);
    client.send(1);
    CHECK(server.recv<int>() == 1);
}

TEST_CASE("a message that promises descriptors and brings none is refused", "[ipc][fds]") {
    auto [here, there] = Pipe();
    here.send(std::uint64_t(0));  // what a DupFd looks like, without a descriptor beside it
    CHECK_THROWS_AS(there.recv<DupFd>(), SerializationError);
    PipeFds pipe;
    detail::HeapBuffer buffer;
    OutputArchive archive(buffer);
    CHECK_THROWS_AS(archive(pipe.write_end), SerializationError);
    CHECK_THROWS_AS(here.send(DupFd()), SerializationError);
}

namespace {

// What send() would write for a T that is made of these numbers.
template <class T>
std::string typed_message(const std::vector<std::uint64_t>& numbers) {
    std::uint32_t magic = detail::MessageType::kMagic;
    std::uint64_t tag = detail::message_type<T>().tag;
    std::string body(reinterpret_cast<const char*>(&magic), sizeof magic);
    body.append(reinterpret_cast<const char*>(&tag), sizeof tag);
    return body.append(reinterpret_cast<const char*>(numbers.data()), 8 * numbers.size());
}

}  // namespace

TEST_CASE("a message may name its descriptors 1024 times, however many it has", "[ipc][fds]") {
    rlimit former = {};
    REQUIRE(getrlimit(RLIMIT_NOFILE, &former) == 0);
    rlimit raised = {std::min<rlim_t>(former.rlim_max, 8192), former.rlim_max};
    REQUIRE(setrlimit(RLIMIT_NOFILE, &raised) == 0);
    test::RawPeer peer;
    for (std::uint64_t count : {1024u, 1025u}) {
        std::vector<std::uint64_t> numbers(1 + count, 0);  // all of them the first one's
        numbers[0] = count;
        std::string body = typed_message<std::vector<DupFd>>(numbers);
        peer.write(test::big_endian(body.size(), 4));
        sidestep::sys::send_some(peer.fd(), std::as_bytes(std::span(body).first(1)), {},
                                 std::array{0});
        peer.write(body.substr(1));
        if (count == 1024)
            CHECK(peer.connection().recv<std::vector<DupFd>>().size() == count);
        else
            CHECK_THROWS_WITH(peer.connection().recv<std::vector<DupFd>>(),
                              Catch::Contains("more than 1024 times"));
    }
    REQUIRE(setrlimit(RLIMIT_NOFILE, &former) == 0);
}

TEST_CASE("what a peer attaches beyond the limit is closed, and the message has lost it",
          "[ipc][fds]") {
    test::RawPeer peer;
    std::vector<DupFd> many;
    for (int i = 0; i < 253; ++i) many.push_back(DupFd::duplicate_of(0));
    auto send_with_many = [&](std::string_view bytes) {
        iovec part = {const_cast<char*>(bytes.data()), bytes.size()};
        alignas(cmsghdr) char control[CMSG_SPACE(253 * sizeof(int))] = {};
        msghdr message = {};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        cmsghdr* rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(253 * sizeof(int));
        for (std::size_t i = 0; i < many.size(); ++i) {
            int fd = many[i].fd();
            std::memcpy(CMSG_DATA(rights) + i * sizeof fd, &fd, sizeof fd);
        }
        REQUIRE(::sendmsg(peer.fd(), &message, 0) == static_cast<ssize_t>(bytes.size()));
    };
    for (std::uint64_t number : {505u, 506u}) {  // the number of a descriptor, as a DupFd travels
        std::string body = typed_message<DupFd>({number});
        peer.write(test::big_endian(body.size(), 4));
        send_with_many(body.substr(0, 1));
        send_with_many(body.substr(1, 1));
        send_with_many(body.substr(2));
        if (number == 505)
            CHECK(peer.connection().recv<DupFd>().fd() >= 0);
        else
            CHECK_THROWS_WITH(peer.connection().recv<DupFd>(), Catch::Contains("were lost"));
    }
    peer.write(test::frame("next"));
    CHECK(peer.connection().recv_bytes() == "next");
}

TEST_CASE("a full table of descriptors is an error that names it, and nothing leaks",
          "[ipc][fds]") {
    auto [here, there] = Pipe();
    here.send(std::vector<int>{1});
    std::vector<DupFd> three;
    for (int i = 0; i < 3; ++i) three.push_back(DupFd::duplicate_of(0));
    here.send(three);
    here.send(5);
    test::ForkedChild child([&end = there] {
        rlimit limit = {};
        getrlimit(RLIMIT_NOFILE, &limit);
        DupFd next = DupFd::duplicate_of(0);
        limit.rlim_cur = static_cast<rlim_t>(next.fd()) + 1;  // room for one
        next.reset();
        setrlimit(RLIMIT_NOFILE, &limit);
        end.recv<std::vector<int>>();
        try {
            end.recv<std::vector<DupFd>>();
            return 2;
        } catch (const SerializationError& error) {
            if (!std::strstr(error.what(), "ulimit")) return 3;
        }
        return end.recv<int>() == 5 ? 0 : 4;
    });
    CHECK(child.join() == 0);
}

}  // namespace fd_passing_test

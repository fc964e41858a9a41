// Real Python at the other end, both ways round. The system's Python may speak the handshake of
// before 3.12 (then the option is on); for the new one there is a peer that the tests carry, and a
// newer Python where there is one: SIDESTEP_NEW_PYTHON, or python3.12 and later in the PATH.
#include <sidestep/connection.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdlib>

#include "connection_support.hpp"

namespace python_interop_test {

using namespace sidestep;
using namespace std::chrono_literals;

namespace {

const std::string kScripts = SIDESTEP_TEST_PYTHON_SCRIPTS;

// A Python program as a child, with its standard output to read from.
class Program {
  public:
    explicit Program(std::vector<std::string> arguments, int inherited = -1)
        : pipe_(make_pipe()), child_([&] {
              dup2(pipe_.second.fd(), 1);
              if (inherited >= 0) fcntl(inherited, F_SETFD, 0);
              std::vector<char*> argv;
              for (std::string& argument : arguments) argv.push_back(argument.data());
              argv.push_back(nullptr);
              execvp(argv[0], argv.data());
              return 127;
          }) {
        pipe_.second.reset();
    }
    std::string line() {
        std::string text;
        for (char c = 0; ::read(pipe_.first.fd(), &c, 1) == 1 && c != '\n';) text += c;
        return text;
    }
    int join() { return child_.join(); }

  private:
    static std::pair<DupFd, DupFd> make_pipe() {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) != 0) std::abort();
        return {DupFd(fds[0]), DupFd(fds[1])};
    }
    std::pair<DupFd, DupFd> pipe_;
    test::ForkedChild child_;
};

struct Python {
    std::string command;
    std::string script;
    bool legacy;  // speaks HMAC-MD5
    std::vector<std::string> digests = {};
};

// "3.11" and so on as 311; 0 if there is no such program, or it does not run.
int version_of(const std::string& command) {
    Program program({"/bin/sh", "-c", "exec \"$0\" -c \"$1\" 2>/dev/null", command,
                     "import sys; print(sys.version_info[0]*100+sys.version_info[1])"});
    std::string text = program.line();
    return program.join() == 0 ? std::atoi(text.c_str()) : 0;
}

const std::vector<std::string> kDigests = {"sha256", "sha384", "sha3_256", "sha3_384"};

std::vector<Python> find_pythons() {
    const char* named = std::getenv("SIDESTEP_PYTHON");
    std::string system = named != nullptr ? named : "/usr/bin/python3";
    int version = version_of(system);
    if (version == 0) return {};
    std::vector<Python> pythons = {{system, "own_peer.py", false, kDigests}};
    bool is_new = version >= 312;
    pythons.push_back(
        {system, "mp_peer.py", !is_new, is_new ? kDigests : std::vector<std::string>()});
    if (is_new) return pythons;
    const char* newer = std::getenv("SIDESTEP_NEW_PYTHON");
    for (std::string command :
         {newer != nullptr ? newer : "", "python3.14", "python3.13", "python3.12"})
        if (!command.empty() && version_of(command) >= 312) {
            pythons.push_back({command, "mp_peer.py", false, kDigests});
            break;
        }
    return pythons;
}

const std::vector<Python>& pythons() {
    static const std::vector<Python> found = find_pythons();
    return found;
}

std::vector<std::string> command_line(const Python& python, const char* role,
                                      const Address& address, const std::string& key,
                                      const std::string& digest) {
    std::vector<std::string> line = {python.command,
                                     kScripts + "/" + python.script,
                                     role,
                                     std::holds_alternative<TcpAddress>(address) ? "tcp" : "unix",
                                     to_string(address),
                                     key};
    if (!digest.empty()) line.push_back(digest);
    return line;
}

// The Python is the echo of it.
bool converse(Connection& connection) {
    for (std::size_t size :
         {std::size_t(1), std::size_t(16384), std::size_t(16385), std::size_t(5) << 20}) {
        std::string message(size, static_cast<char>('a' + size % 7));
        connection.send_bytes(message);
        if (connection.recv_bytes() != message) return false;
    }
    connection.send_bytes("");
    return true;
}

std::vector<Address> addresses(const test::TemporaryFolder& folder) {
    static int count = 0;
    return {TcpAddress{}, UnixAddress{folder.file("socket" + std::to_string(++count))},
            UnixAddress::abstract("sidestep-interop-" + std::to_string(getpid()))};
}

// Where a Python listener that was given `asked` really listens.
Address where_it_listens(Program& program, const Address& asked) {
    std::string line = program.line();
    if (std::holds_alternative<UnixAddress>(asked)) return asked;
    auto port = static_cast<std::uint16_t>(std::atoi(line.c_str() + line.rfind(':') + 1));
    return TcpAddress{"127.0.0.1", port};
}

}  // namespace

TEST_CASE("a Python client talks to our listener, on every address, in every hash",
          "[ipc][interop]") {
    if (pythons().empty()) WARN("no Python here: nothing was tested");
    test::TemporaryFolder folder;
    for (const Python& python : pythons())
        for (const Address& address : addresses(folder)) {
            std::vector<std::string> digests = python.digests;
            if (!std::holds_alternative<TcpAddress>(address) || digests.empty()) digests = {""};
            for (const std::string& digest : digests) {
                CAPTURE(python.command, python.script, to_string(address), digest);
                Listener listener({.address = address,
                                   .authkey = "the key",
                                   .digest = digest == "sha384" ? Digest::sha3_384 : Digest::sha256,
                                   .legacy_md5 = python.legacy,
                                   .handshake_timeout = test::kPatience});
                Program client(
                    command_line(python, "client", listener.address(), "the key", digest));
                Connection connection = listener.accept();
                CHECK(converse(connection));
                CHECK(client.join() == 0);
            }
        }
}

TEST_CASE("our client talks to a Python listener, on every address, in every hash",
          "[ipc][interop]") {
    test::TemporaryFolder folder;
    for (const Python& python : pythons())
        for (const Address& address : addresses(folder)) {
            std::vector<std::string> digests = python.digests;
            if (!std::holds_alternative<TcpAddress>(address) || digests.empty()) digests = {""};
            for (const std::string& digest : digests) {
                CAPTURE(python.command, python.script, to_string(address), digest);
                Program listener(command_line(python, "listener", address, "the key", digest));
                Connection connection =
                    Client(where_it_listens(listener, address),
                           {.authkey = "the key",
                            .digest = digest == "sha384" ? Digest::sha3_256 : Digest::sha256,
                            .legacy_md5 = python.legacy});
                CHECK(converse(connection));
                CHECK(listener.join() == 0);
            }
        }
}

TEST_CASE("a wrong key is refused on both sides, whichever side is Python", "[ipc][interop]") {
    for (const Python& python : pythons()) {
        CAPTURE(python.command, python.script);
        Listener listener({.address = TcpAddress{},
                           .authkey = "the key",
                           .legacy_md5 = python.legacy,
                           .handshake_timeout = test::kPatience});
        Program client(command_line(python, "client", listener.address(), "another", ""));
        CHECK_THROWS_WITH(listener.accept(), Catch::Contains("authkey"));
        CHECK(client.join() == 3);
        Program other(command_line(python, "listener", TcpAddress{}, "another", ""));
        Address address = where_it_listens(other, TcpAddress{});
        CHECK_THROWS_WITH(Client(address, {.authkey = "the key", .legacy_md5 = python.legacy}),
                          Catch::Contains("authkey"));
        CHECK(other.join() == 3);
    }
}

TEST_CASE("the handshake of old is refused unless it was asked for, and the error says how",
          "[ipc][interop]") {
    for (const Python& python : pythons()) {
        if (!python.legacy) continue;
        Listener listener(
            {.address = TcpAddress{}, .authkey = "the key", .handshake_timeout = test::kPatience});
        Program client(command_line(python, "client", listener.address(), "the key", ""));
        CHECK_THROWS_WITH(listener.accept(), Catch::Contains("legacy_md5"));
        CHECK(client.join() == 3);
        Program other(command_line(python, "listener", TcpAddress{}, "the key", ""));
        Address address = where_it_listens(other, TcpAddress{});
        CHECK_THROWS_WITH(Client(address, {.authkey = "the key"}), Catch::Contains("legacy_md5"));
        CHECK(other.join() != 0);
    }
}

TEST_CASE("descriptors go to a Python program and come back", "[ipc][interop][fds]") {
    for (const Python& python : pythons()) {
        if (python.script != "mp_peer.py") continue;
        auto [here, there] = Pipe();
        int fds[2];
        REQUIRE(pipe2(fds, O_CLOEXEC) == 0);
        DupFd reader(fds[0]), writer(fds[1]);
        Program program({python.command, kScripts + "/handle_peer.py", std::to_string(there.fd())},
                        there.fd());
        there.close();
        send_handle(here, writer.fd());
        char text[32] = {};
        CHECK(::read(reader.fd(), text, sizeof text) == 15);
        CHECK(std::string(text) == "python was here");
        DupFd back = recv_handle(here);
        CHECK(::write(back.fd(), "x", 1) == 1);
        CHECK(here.recv_bytes() == "done");
        CHECK(program.join() == 0);
    }
}

TEST_CASE("what Python's send() has pickled is refused by name", "[ipc][interop]") {
    for (const Python& python : pythons()) {
        if (python.script != "mp_peer.py") continue;
        CAPTURE(python.command);
        Listener listener({.address = UnixAddress{}});
        const auto& name = std::get<UnixAddress>(listener.address()).path;
        Program client({python.command, "-c",
                        "import sys, multiprocessing.connection as c\n"
                        "c.Client('\\0' + sys.argv[1], 'AF_UNIX').send([1, 'two'])",
                        name});
        Connection connection = listener.accept();
        CHECK_THROWS_WITH(connection.recv<std::vector<int>>(), Catch::Contains("Python pickle"));
        CHECK(client.join() == 0);
    }
}

}  // namespace python_interop_test

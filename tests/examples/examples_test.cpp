#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>

#include <catch2/catch.hpp>

#include "example.hpp"
#include "support.hpp"
#include "variable.hpp"

namespace examples_test {

using namespace std::chrono_literals;
using Catch::Matchers::Contains;
using Catch::Matchers::Matches;
namespace sp = sidestep::subprocess;

namespace {

// The example succeeds, prints this to stdout, and nothing to stderr.
void check_prints(const char* example, const std::string& text) {
    auto done = test::run_example(example);
    CHECK(done.returncode == 0);
    CHECK(done.std_out == text);
    CHECK(done.std_err.empty());
}
// The same, of a regular expression.
void check_matches(const char* example, const std::string& expression) {
    auto done = test::run_example(example);
    CHECK(done.returncode == 0);
    CHECK_THAT(done.std_out, Matches(expression));
    CHECK(done.std_err.empty());
}

#ifdef HAS_ASIO
// A connection to a server of this machine.
class TcpClient {
  public:
    explicit TcpClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_in server{};
        server.sin_family = AF_INET;
        server.sin_port = htons(static_cast<std::uint16_t>(port));
        server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::connect(socket_, reinterpret_cast<sockaddr*>(&server), sizeof server) == 0);
    }
    ~TcpClient() { ::close(socket_); }
    TcpClient(const TcpClient&) = delete;
    TcpClient& operator=(const TcpClient&) = delete;

    void send(const std::string& text) {
        REQUIRE(::send(socket_, text.data(), text.size(), MSG_NOSIGNAL) ==
                static_cast<ssize_t>(text.size()));
    }
    // "(nothing)": it has not come in time.
    std::string read_line(std::chrono::milliseconds patience) {
        std::string line;
        pollfd entry{socket_, POLLIN, 0};
        for (char c = 0; c != '\n'; line += c) {
            if (::poll(&entry, 1, static_cast<int>(patience.count())) == 0) return "(nothing)";
            if (::read(socket_, &c, 1) != 1) return line + "(end)";
        }
        return line;
    }

  private:
    int socket_;
};
#endif

}  // namespace

TEST_CASE("the tour of futures shows results, the error by type and the lost worker",
          "[examples][tour]") {
    auto done = test::run_example("example_02_futures");
    CHECK(done.returncode == 0);
    CHECK_THAT(
        done.std_out,
        Matches("6\ndomain_error: division by zero\nin worker: "
                "std::domain_error: division by zero\n(.|\n)*\n3\ntimed out\n4\ncancelled: 1\n"
                "[123]0 [123]0 [123]0 \n3 done, 0 pending\n"));
    CHECK_THAT(done.std_out, Contains("died of signal 11 (SIGSEGV"));
    CHECK_THAT(done.std_out, Contains("while it ran task 3 (crash(int))"));
    CHECK_THAT(done.std_out, Contains("(signal 11)"));
}

TEST_CASE("the tour of processes: a queue, an echo, and an exception that comes back by type",
          "[examples][tour]") {
    auto done = test::run_example("example_04_process");
    CHECK(done.returncode == 0);
    CHECK(done.std_out ==
          "200 items, exit codes 0 0\nhello!\n1 ready\nexit code 1\nchild failed\n");
    CHECK_THAT(done.std_err, Matches("Process Process-4 \\(pid [0-9]+\\) ended by an exception:\n"
                                     "std::runtime_error: child failed\n"));
}

#ifdef HAS_ASIO
TEST_CASE("a server in an event loop answers while a worker counts", "[examples]") {
    check_prints("example_event_loop", "9592 primes, and pong\n");
    sp::Popen server({test::example_path("example_event_loop"), "0"},
                     {.std_err = sp::PIPE, .on_destroy = sp::OnDestroy::kill});
    const std::string line = server.std_err().read_line().value_or("");
    REQUIRE_THAT(line, Matches("port [0-9]+"));
    const int port = std::stoi(line.substr(5));
    TcpClient job(port), other(port);
    job.send("primes 2000000000\n");  // that takes hours
    for (int i = 0; i < 10; ++i) {
        other.send("ping\n");
        REQUIRE(other.read_line(test::kPatience) == "pong\n");
    }
    CHECK(job.read_line(0ms) == "(nothing)");
}
#endif

TEST_CASE("a pipeline of three stages counts all lines", "[examples]") {
    check_prints("example_pipeline", "200 lines, 580 digits\n");
}

namespace {
// (The order in which printf's arguments are evaluated is the compiler's.)
constexpr const char* kActorTour =
    "10 ada\n15\na deposit is positive\n115\n"
    "the actor Account \\(process [0-9]+\\) died of signal 6 \\(SIGABRT\\) "
    "in Account::crash\\(\\)\n7 1\n7 2\n";
constexpr const char* kManagerTour = "2 1 7\nbe 2\nnot 1\nor 1\nto 2\n500\n42\n4\n";
constexpr const char* kRemoteTour =
    "100 results\n[^\n]*results[^\n]*not exposed[^\n]*\n"
    "[^\n]*listener at 127.0.0.1[^\n]*\n";
}  // namespace

TEST_CASE("the tour of actors: calls, a crash and a hang that cost nothing but themselves",
          "[examples][tour]") {
    check_matches("example_08_actor", kActorTour);
}

// Not by fork: their pools have threads by the time that they start a process.
TEST_CASE("the tours of objects elsewhere run by all start methods that do with threads",
          "[examples][tour]") {
    const char* method = GENERATE("spawn", "forkserver", "fork_threaded");
    INFO("start method " << method);
    test::Variable chosen("TOUR_START_METHOD", method);
    const char* folder = std::getenv("SIDESTEP_TOURS");
    test::Variable examples("SIDESTEP_EXAMPLES", folder ? folder : "tests/examples");
    check_matches("tour_08_actor", kActorTour);
    check_matches("tour_09_manager", kManagerTour);
    check_matches("tour_10_remote", kRemoteTour);
}

TEST_CASE("the tour of composition: futures that feed tasks, maps that end early, an event loop",
          "[examples][tour]") {
    check_prints("example_12_composition", "2\n4\n9\n4\nthree\nin time\n1\n8\n42\n6\n");
}

TEST_CASE("the tour of managers runs as it stands", "[examples][tour]") {
    check_prints("example_09_manager", kManagerTour);
}

TEST_CASE("the tour of remote objects: what is not exposed and a wrong key are refused",
          "[examples][tour]") {
    check_matches("example_10_remote", kRemoteTour);
}

TEST_CASE("the tour of shared memory runs as it stands", "[examples][tour]") {
    check_prints("example_05_shared_memory", "2 3\n20000\n1048576\n42\n");
}

TEST_CASE("the tour of subprocess runs as it stands", "[examples][tour]") {
    check_matches("example_06_subprocess",
                  "0, [0-9]+ bytes\nHI\n9\n10\n.*sleep 60.* timed out after 0.1 seconds\n"
                  "exit status 3\n.*/no/such/program.*No such file or directory\n"
                  "BANANA\nAPPLE\n0 0\n-15\n");
}

TEST_CASE("the tour of connections echoes, and turns a wrong key away on both sides",
          "[examples][tour]") {
    auto done = test::run_example("example_07_connection");
    CHECK(done.returncode == 0);
    // Which side is told first is the scheduler's choice.
    CHECK_THAT(done.std_out, Matches("abab\n(server|client): .*\n(server|client): .*\n"));
    CHECK_THAT(done.std_out, Contains("\nserver: the peer 127.0.0.1:") &&
                                 Contains("\nclient: the listener at 127.0.0.1:"));
    CHECK(done.std_err.empty());
}

}  // namespace examples_test

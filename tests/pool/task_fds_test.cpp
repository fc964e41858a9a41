// Descriptors that do not reach a worker: the error says what kept them back. White box.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "faults.hpp"
#include "support.hpp"
#include "worker/task_fds.hpp"
#include "worker/worker_protocol.hpp"

namespace task_fds_test {

using Catch::Contains;
using sidestep::Fd;
using sidestep::FdsInFlight;
using sidestep::GivenFds;
using sidestep::TaskFds;
using test::Call;
using test::Fault;

namespace {

constexpr std::uint64_t kIdentity = 77;
constexpr std::uint64_t kTask = 5;

// Both ends of a worker's control socket.
struct Sockets {
    Sockets() {
        int ends[2];
        REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
        parent = Fd(ends[0]);
        number = ends[1];
        worker.emplace(Fd(ends[1]));
    }
    // One of a shared object, and two of a task's own.
    void send() {
        GivenFds given;
        const std::array lasting{GivenFds::Lasting{kIdentity, STDIN_FILENO, owner}};
        REQUIRE(given.give(parent.get(), lasting));
        const std::array fds{STDIN_FILENO, STDOUT_FILENO};
        REQUIRE(sidestep::send_task_fds(parent.get(), kTask, fds));
    }

    Fd parent;
    int number;
    std::optional<TaskFds> worker;
    const std::shared_ptr<const void> owner = std::make_shared<int>(0);
};

std::string error_of_lasting(TaskFds& fds) {
    try {
        (void)fds.get_lasting(sidestep::detail::TaskDescriptors::kLasting | kIdentity,
                              [](int fd) -> std::shared_ptr<void> {
                                  const Fd closes_it(fd);
                                  return std::make_shared<int>(0);
                              });
    } catch (const sidestep::SerializationError& error) {
        return error.what();
    }
    return {};
}
std::string error_of_open(TaskFds& fds) {
    try {
        fds.open(kTask, 2);
    } catch (const sidestep::SerializationError& error) {
        return error.what();
    }
    return {};
}

void check_both(TaskFds& fds, const std::string& why, const std::string& missing = "2") {
    CHECK_THAT(error_of_open(fds), Contains(missing + " of the 2 descriptors") && Contains(why));
    CHECK_THAT(error_of_lasting(fds), Contains("shared object") && Contains(why));
    CHECK(fds.lacked());
}

// While it lives, this process may have no more descriptors.
struct NoDescriptors {
    NoDescriptors() {
        REQUIRE(getrlimit(RLIMIT_NOFILE, &before) == 0);
        const rlimit none = {3, before.rlim_max};
        REQUIRE(setrlimit(RLIMIT_NOFILE, &none) == 0);
    }
    ~NoDescriptors() { setrlimit(RLIMIT_NOFILE, &before); }
    NoDescriptors(const NoDescriptors&) = delete;
    NoDescriptors& operator=(const NoDescriptors&) = delete;
    rlimit before{};
};

}  // namespace

TEST_CASE("descriptors that come are there, and there is no error", "[pool][handles][fds]") {
    Sockets sockets;
    sockets.send();
    CHECK(error_of_open(*sockets.worker).empty());
    for (std::uint64_t i = 0; i < 2; ++i) const Fd closes_it(sockets.worker->get(i));
    CHECK(error_of_lasting(*sockets.worker).empty());
    CHECK_FALSE(sockets.worker->lacked());
}

TEST_CASE("a worker that has no descriptors left says so", "[pool][handles][fds][faults]") {
    Sockets sockets;
    sockets.send();
    std::string open, lasting;
    {
        const NoDescriptors limit;
        open = error_of_open(*sockets.worker);
        lasting = error_of_lasting(*sockets.worker);
    }
    CHECK_THAT(open, Contains("this worker has no descriptors left") && Contains("RLIMIT_NOFILE"));
    CHECK_THAT(lasting, Contains("this worker has no descriptors left"));
}

TEST_CASE("a control socket that a task has closed is not taken for want of descriptors",
          "[pool][handles][fds]") {
    Sockets sockets;
    sockets.send();
    const Fd aside(fcntl(sockets.number, F_DUPFD_CLOEXEC, 0));
    const bool in_its_place = GENERATE(false, true);
    if (in_its_place)
        REQUIRE(dup2(STDIN_FILENO, sockets.number) == sockets.number);
    else
        close(sockets.number);
    check_both(*sockets.worker, "a task has closed descriptors that are not its own");
    REQUIRE(dup2(aside.get(), sockets.number) == sockets.number);
}

TEST_CASE("a control socket without another end is told from that, too", "[pool][handles][fds]") {
    Sockets sockets;
    sockets.parent.reset();
    check_both(*sockets.worker, "has no other end any more");
}

TEST_CASE("memory that the kernel has not is no want of descriptors",
          "[pool][handles][fds][faults]") {
    Sockets sockets;
    sockets.send();
    const int error = GENERATE(ENOMEM, ENOBUFS);
    {
        const Fault fault(Call::recvmsg, error, 0, Fault::kEver);
        check_both(*sockets.worker, "the kernel has no memory");
    }
    CHECK(error_of_open(*sockets.worker).empty());  // they were there all the time
    CHECK(error_of_lasting(*sockets.worker).empty());
}

TEST_CASE("an error that nobody foresaw is told as it is", "[pool][handles][fds][faults]") {
    Sockets sockets;
    const Fault fault(Call::recvmsg, EPERM, 0, Fault::kEver);
    check_both(*sockets.worker, "Operation not permitted");
}

TEST_CASE("descriptors that nobody sent, or a task has read, are not said to be lacking",
          "[pool][handles][fds]") {
    Sockets sockets;
    CHECK_THAT(error_of_open(*sockets.worker), Contains("the application closed them"));
    CHECK_THAT(error_of_lasting(*sockets.worker),
               Contains("a task has read from this worker's control socket"));
}

TEST_CASE("descriptors of as many tasks as a worker may have wait until it is their turn",
          "[pool][handles][fds]") {
    Sockets sockets;
    const std::array fds{STDIN_FILENO};
    // Their numbers are in no order: one that is run again, or was submitted early, comes late.
    for (std::uint64_t i = 0; i < FdsInFlight::kMost; ++i)
        REQUIRE(sidestep::send_task_fds(sockets.parent.get(), 1000 - i, fds));
    for (std::uint64_t i = 0; i < FdsInFlight::kMost; ++i) {
        sockets.worker->open(1000 - i, 1);
        const Fd closes_it(sockets.worker->get(0));
    }
}

TEST_CASE("descriptors of tasks that were taken back go, those of the finalizer stay",
          "[pool][handles][fds]") {
    Sockets sockets;
    const std::array fds{STDIN_FILENO};
    const auto before = test::Resources::now();
    REQUIRE(sidestep::send_task_fds(sockets.parent.get(), sidestep::kFinalizerFds, fds));
    for (std::uint64_t i = 1; i <= 3 * TaskFds::kMostKept; ++i) {
        REQUIRE(sidestep::send_task_fds(sockets.parent.get(), i, fds));
        if (i % 50 == 0) sockets.worker->tidy();
    }
    sockets.worker->tidy();
    CHECK(test::Resources::now().fds.size() == before.fds.size() + TaskFds::kMostKept);
    sockets.worker->open(sidestep::kFinalizerFds, 1);
    CHECK_THROWS_AS(sockets.worker->open(1, 1), sidestep::SerializationError);
    sockets.worker->open(3 * TaskFds::kMostKept, 1);
}

TEST_CASE("a worker is sent few descriptors at a time", "[pool][handles][fds]") {
    FdsInFlight sent;
    CHECK(sent.has_room(1000, 0, 0));  // one task, as many as it has
    for (std::uint64_t i = 0; i < FdsInFlight::kMost; ++i) {
        REQUIRE(sent.has_room(1, 0, i));
        sent.add(1, 0, i);
    }
    const std::uint64_t end = FdsInFlight::kMost;
    CHECK_FALSE(sent.has_room(1, 0, end));
    CHECK(sent.has_room(1, 1, end));  // the first is through
    CHECK_FALSE(sent.has_room(2, 1, end));
    CHECK(sent.has_room(FdsInFlight::kMost - 1, 0, 1));  // all others were taken back
    sent.add(FdsInFlight::kMost - 1, 0, 1);
    CHECK_FALSE(sent.has_room(1, 0, 2));
    CHECK_FALSE(sent.has_room(1, 0, end));  // what was taken back is forgotten
    CHECK(sent.has_room(1, 2, end));
}

}  // namespace task_fds_test

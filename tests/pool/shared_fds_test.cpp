// What a task does to the descriptors that its worker shares with the pool costs that worker at
// most: nobody waits for it, and timeouts are held.
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "policy_support.hpp"
#include "sys/sys.hpp"
#include "worker/worker_protocol.hpp"

namespace shared_fds_test {

namespace mp = sidestep;
using test::error_of;
using test::get;
using test::kGate;
using test::kTell;
using test::methods;
using namespace std::chrono_literals;

namespace {

constexpr int kMostFds = 256;  // of a worker, by far

bool is_eventfd(int fd) {
    char target[64] = {};
    std::string link = "/proc/self/fd/" + std::to_string(fd);
    return readlink(link.c_str(), target, sizeof target - 1) > 0 &&
           std::strcmp(target, "anon_inode:[eventfd]") == 0;
}
bool is_socket(int fd) {
    struct stat file = {};
    return fstat(fd, &file) == 0 && S_ISSOCK(file.st_mode);
}
bool is_pipe(int fd) {
    struct stat file = {};
    return fstat(fd, &file) == 0 && S_ISFIFO(file.st_mode);
}
std::vector<int> all_fds(bool (*wanted)(int)) {
    std::vector<int> fds;
    for (int fd = 3; fd < kMostFds; ++fd)
        if (wanted(fd)) fds.push_back(fd);
    return fds;
}
void set_blocking(int fd) { (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK); }

// Full: the next write of whoever writes there would wait. (A worker that does is stopped by its
// own doing; so this task's descriptor takes its place.)
int fill_eventfds() {
    std::uint64_t most = std::numeric_limits<std::uint64_t>::max() - 1, seen = 0;
    int count = 0;
    for (int fd : all_fds(is_eventfd)) {
        (void)!read(fd, &seen, sizeof seen);
        count += write(fd, &most, sizeof most) == sizeof most;
        set_blocking(fd);
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        // A child keeps it full, and blocking, while this worker goes on without it.
        if (fork() == 0)
            for (;;) pause();
        dup2(null, fd);
        close(null);
    }
    return count;
}
// Takes what is there whenever something is, while it runs.
int drain_eventfds(const std::string& path) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    std::vector<int> fds = all_fds(is_eventfd);
    for (int fd : fds) set_blocking(fd);
    for (int fd : fds) {
        if (fork() != 0) continue;
        for (std::uint64_t seen;;) (void)!read(fd, &seen, sizeof seen);
    }
    words[kTell] = 1;
    return static_cast<int>(fds.size());
}
int change_sockets(int how) {
    int count = 0;
    for (int fd : all_fds(is_socket)) {
        ++count;
        if (how == 0) set_blocking(fd);
        if (how == 1) (void)shutdown(fd, SHUT_RDWR);
        if (how == 2) close(fd);
    }
    return count;
}
int fill_sockets() {
    std::vector<char> junk(4096, 'x');
    for (int fd : all_fds(is_socket))
        while (send(fd, junk.data(), junk.size(), MSG_DONTWAIT | MSG_NOSIGNAL) > 0) {
        }
    for (;;) pause();
}
int flood_sockets() {
    int fds[64];
    for (int& fd : fds) fd = dup(0);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {};
    char byte = 'x';
    iovec part = {&byte, 1};
    msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fds);
    std::memcpy(CMSG_DATA(rights), fds, sizeof fds);
    for (int fd : all_fds(is_socket))
        for (int i = 0; i < 20 && sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL) > 0; ++i) {
        }
    for (;;) pause();
}
// What a worker sends once its task has nested ones, with something that is no socket.
int offer_a_pipe() {
    int ends[2] = {-1, -1};
    (void)!pipe(ends);
    mp::WorkerReady line;
    line.magic = mp::WorkerReady::kLineMagic;
    for (int fd : all_fds(is_socket))
        mp::sys::send_message(fd, std::as_bytes(std::span(&line, 1)), {&ends[0], 1});
    for (;;) pause();
}
int change_pipes(int how) {
    int count = 0;
    for (int fd : all_fds(is_pipe)) {
        ++count;
        if (how == 0) set_blocking(fd);
        if (how == 1) close(fd);
    }
    return count;
}
// Leaves a child in the worker's group, and is in its parent's from then on.
int change_group(const std::string& path) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    signal(SIGTERM, SIG_IGN);
    pid_t child = fork();
    if (child == 0)
        for (;;) pause();
    words[kTell] = static_cast<std::uint64_t>(child);
    if (setpgid(0, getpgid(getppid())) < 0) return errno;
    words[kGate] = static_cast<std::uint64_t>(getpid());
    for (;;) pause();
}
int hang() {
    for (;;) pause();
}

// The pool does all that it does, in time.
void check_pool(mp::Pool& pool) {
    for (int round = 0; round < 3; ++round) {
        error_of<mp::TaskTimeout>(pool.submit({.timeout = 20ms}, hang));
        for (int i = 0; i < 20; ++i) CHECK(get(pool.submit(test::add, i, 1)) == i + 1);
        std::vector<mp::Future<int>> many;
        for (int i = 0; i < 200; ++i) many.push_back(pool.submit(test::add, i, 2));
        for (int i = 0; i < 200; ++i) CHECK(get(many[static_cast<std::size_t>(i)]) == i + 2);
    }
}

}  // namespace

TEST_CASE("a worker has one eventfd, which is its own", "[pool][shared]") {
    auto method = GENERATE(from_range(methods()));
    auto count = [] { return static_cast<int>(all_fds(is_eventfd).size()); };
    mp::Pool pool({.processes = 2, .start_method = method});
    mp::Pool other({.processes = 1, .start_method = mp::StartMethod::spawn});
    CHECK(get(pool.submit(count)) == 1);
    CHECK(get(other.submit(count)) == 1);
}

TEST_CASE("an eventfd that a task fills, and makes blocking, stops nobody", "[pool][shared]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(get(pool.submit(fill_eventfds)) == 1);
    check_pool(pool);
}

TEST_CASE("an eventfd that a task drains again and again stops nobody", "[pool][shared]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(get(pool.submit(drain_eventfds, words.path())) == 1);
    check_pool(pool);
}

TEST_CASE("a control socket that a task sets blocking, shuts down or closes stops nobody",
          "[pool][shared]") {
    auto method = GENERATE(from_range(methods()));
    int how = GENERATE(0, 1, 2);
    CAPTURE(how);
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(get(pool.submit(change_sockets, how)) > 0);
    check_pool(pool);
}

TEST_CASE("a control socket that a task fills, or floods with descriptors, costs that worker",
          "[pool][shared]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    error_of<mp::WorkerLost>(pool.submit(fill_sockets));
    error_of<mp::WorkerLost>(pool.submit(flood_sockets));
    check_pool(pool);
}

TEST_CASE("a line for nested tasks that is no socket costs that worker, and the pool ends",
          "[pool][shared][nested]") {
    auto method = GENERATE(from_range(methods()));
    mp::Pool pool({.processes = 2, .start_method = method});
    auto offers = pool.submit(offer_a_pipe);
    REQUIRE(offers.wait_for(test::kPatience));
    error_of<mp::WorkerLost>(offers);
    check_pool(pool);
}

TEST_CASE("a lifeline that a task sets blocking or closes stops nobody", "[pool][shared]") {
    auto method = GENERATE(from_range(methods()));
    int how = GENERATE(0, 1);
    CAPTURE(how);
    mp::Pool pool({.processes = 2, .start_method = method});
    CHECK(get(pool.submit(change_pipes, how)) > 0);
    check_pool(pool);
}

TEST_CASE("a task that joins its parent's process group is ended all the same, and so is its child",
          "[pool][shared][timeout]") {
    auto method = GENERATE(from_range(methods()));
    test::SharedWords words(test::kWords);
    mp::Pool pool({.processes = 2, .start_method = method, .terminate_grace = 20ms});
    error_of<mp::TaskTimeout>(pool.submit({.timeout = 200ms}, change_group, words.path()));
    auto child = static_cast<pid_t>(test::await(words[kTell]));
    auto worker = static_cast<pid_t>(words[kGate].load());
    CHECK(worker != 0);
    CHECK(test::eventually([&] { return !test::process_exists(worker); }));
    CHECK(test::eventually([&] { return !test::process_exists(child); }));
    check_pool(pool);
}

}  // namespace shared_fds_test

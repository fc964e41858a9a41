#include "connection_support.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace test {

ForkedChild::ForkedChild(const std::function<int()>& body) : pid_(fork()) {
    if (pid_ == 0) {
        int code = 1;
        try {
            code = body();
        } catch (const std::exception& error) {
            std::fprintf(stderr, "child: %s\n", error.what());
        }
        _exit(code);
    }
    pidfd_ = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
}

ForkedChild::~ForkedChild() {
    if (!joined_) {
        kill(SIGKILL);
        join();
    }
    close(pidfd_);
}

void ForkedChild::kill(int signal) const { ::kill(pid_, signal); }

int ForkedChild::join() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    joined_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TemporaryFolder::TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "sidestep-test-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
}
TemporaryFolder::~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

RawPeer::RawPeer() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        throw std::runtime_error("socketpair");
    fd_ = fds[0];
    connection_ = sidestep::Connection(fds[1]);
}

RawPeer::RawPeer(const sidestep::Address& address)
    : fd_(sidestep::Client(address).release()) {}  // without a key there is no handshake

void RawPeer::write(std::string_view bytes) {
    while (!bytes.empty()) {
        ssize_t n = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (n <= 0) throw std::runtime_error("the other side does not read");
        bytes.remove_prefix(static_cast<std::size_t>(n));
    }
}

void RawPeer::write_frame(std::string_view body) { write(frame(body)); }

std::string RawPeer::read(std::size_t size) {
    std::string bytes(size, '\0');
    if (recv(fd_, bytes.data(), size, MSG_WAITALL) != static_cast<ssize_t>(size))
        throw std::runtime_error("the other side has closed");
    return bytes;
}

std::string RawPeer::read_frame() {
    std::size_t size = 0;
    for (char c : read(4)) size = size << 8 | static_cast<unsigned char>(c);
    return read(size);
}

bool RawPeer::reaches_end() {
    char bytes[256];
    ssize_t n = 0;
    while ((n = recv(fd_, bytes, sizeof bytes, 0)) > 0) {
    }
    return n == 0 || errno == ECONNRESET;
}

void RawPeer::close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
}

std::string big_endian(std::uint64_t value, std::size_t bytes) {
    std::string text;
    for (std::size_t i = bytes; i-- > 0;) text += static_cast<char>(value >> (8 * i));
    return text;
}

std::string frame(std::string_view body) { return big_endian(body.size(), 4) + std::string(body); }

long peak_memory_kb() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.starts_with("VmHWM:")) return std::atol(line.c_str() + 6);
    return 0;
}

void reset_peak_memory() { std::ofstream("/proc/self/clear_refs") << "5"; }

}  // namespace test

// Helpers of the connection tests: forked children, raw sockets, folders that vanish.
#pragma once

#include <sidestep/connection.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "support.hpp"

namespace test {

// A forked child that runs `body` and leaves with its value; a throw is exit code 1. What the
// body holds by reference is the child's own copy.
class ForkedChild {
  public:
    explicit ForkedChild(const std::function<int()>& body);
    ~ForkedChild();
    ForkedChild(const ForkedChild&) = delete;
    ForkedChild& operator=(const ForkedChild&) = delete;

    int pid() const { return pid_; }
    // Readable when it has ended.
    int sentinel() const { return pidfd_; }
    void kill(int signal) const;
    // Waits for its end: the exit code, or the negative signal number.
    int join();

  private:
    int pid_;
    int pidfd_;
    bool joined_ = false;
};

// A folder of its own, removed at the end.
class TemporaryFolder {
  public:
    TemporaryFolder();
    ~TemporaryFolder();
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    std::string file(const std::string& name) const { return (path_ / name).string(); }

  private:
    std::filesystem::path path_;
};

// A stream socket at the other end of a connection, for what no honest peer would say.
class RawPeer {
  public:
    RawPeer();                                           // one end of a pair: see connection()
    explicit RawPeer(const sidestep::Address& address);  // connects to a listener
    explicit RawPeer(int fd) : fd_(fd) {}
    ~RawPeer() { close(); }
    RawPeer(const RawPeer&) = delete;
    RawPeer& operator=(const RawPeer&) = delete;

    sidestep::Connection& connection() { return connection_; }
    int fd() const { return fd_; }
    void write(std::string_view bytes);
    void write_frame(std::string_view body);
    std::string read(std::size_t size);
    std::string read_frame();
    // True if the other side has closed, maybe after some more bytes.
    bool reaches_end();
    void close();

  private:
    int fd_ = -1;
    sidestep::Connection connection_;
};

// "\0\0\0\5hello"
std::string frame(std::string_view body);
std::string big_endian(std::uint64_t value, std::size_t bytes);

// Kilobytes that this process has ever had in memory at once, since reset_peak_memory().
long peak_memory_kb();
void reset_peak_memory();

}  // namespace test

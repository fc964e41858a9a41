// Servers of objects in programs of their own, for tests.
#pragma once

#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include <sidestep/connection.hpp>
#include <sidestep/event.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>
#include <sidestep/subprocess.hpp>

#include "other_shared.hpp"
#include "support.hpp"

namespace test {

// Stops a process, and returns when all of its threads stand still; goes on at the end of the
// scope.
class Stopped {
  public:
    explicit Stopped(int pid) : pid_(pid) {
        ::kill(pid, SIGSTOP);
        (void)eventually([&] {
            for (const auto& task :
                 std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
                std::ifstream file(task.path() / "stat");
                std::string text((std::istreambuf_iterator<char>(file)), {});
                const auto name_end = text.rfind(") ");
                if (name_end == text.npos || text[name_end + 2] != 'T') return false;
            }
            return true;
        });
    }
    ~Stopped() { ::kill(pid_, SIGCONT); }
    Stopped(const Stopped&) = delete;
    Stopped& operator=(const Stopped&) = delete;

  private:
    const int pid_;
};

// An object that says how often it was called.
struct Echo {
    std::string echo(std::string text) {
        ++calls;
        return text;
    }
    int count() const { return calls; }
    int calls = 0;
};

// Serves in another process, until the destructor. the callable captures nothing.
class RemoteServer {
  public:
    template <class Expose>
    explicit RemoteServer(Expose, sidestep::Address address = sidestep::TcpAddress{},
                          std::chrono::milliseconds lost_after = std::chrono::seconds(30)) {
        auto [here, there] = sidestep::Pipe();
        process_ = std::make_unique<sidestep::Process>(
            sidestep::ProcessOptions{.daemon = true},
            [](sidestep::Address at, std::chrono::milliseconds limit, sidestep::Connection owner,
               sidestep::Event over) {
                sidestep::ManagerServer server(
                    {.address = at, .authkey = "secret", .lost_after = limit});
                Expose{}(server);
                server.start();
                owner.send(server.address());
                over.wait();  // by memory: a call may replace its descriptors
                server.stop();
            },
            address, lost_after, std::move(there), over_);
        process_->start();
        address_ = here.recv<sidestep::Address>();
    }
    ~RemoteServer() {
        over_.set();
        process_->join();
    }
    RemoteServer(const RemoteServer&) = delete;
    RemoteServer& operator=(const RemoteServer&) = delete;

    const sidestep::Address& address() const { return address_; }
    int pid() const { return process_->pid(); }
    sidestep::Process& process() { return *process_; }
    sidestep::Manager connect(
        std::chrono::milliseconds lost_after = std::chrono::seconds(30)) const {
        return sidestep::Manager::connect(address_,
                                          {.authkey = "secret", .lost_after = lost_after});
    }

  private:
    sidestep::Event over_;
    std::unique_ptr<sidestep::Process> process_;
    sidestep::Address address_;
};

// other_server.cpp, by another compiler.
class OtherServer {
  public:
    explicit OtherServer(const std::string& program)
        : process_({program},
                   {.std_in = sidestep::subprocess::PIPE, .std_out = sidestep::subprocess::PIPE}) {
        for (std::string_view line : process_.std_out().lines()) {
            address_.port = static_cast<std::uint16_t>(std::stoi(std::string(line)));
            break;
        }
    }
    ~OtherServer() {
        process_.std_in().close();
        process_.wait();
    }
    OtherServer(const OtherServer&) = delete;
    OtherServer& operator=(const OtherServer&) = delete;
    const sidestep::TcpAddress& address() const { return address_; }

  private:
    sidestep::subprocess::Popen process_;
    sidestep::TcpAddress address_;
};

}  // namespace test

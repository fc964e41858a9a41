// What processes print, and which of them writes it.
#include <sidestep/process.hpp>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <thread>

#include "process_support.hpp"
#include "support.hpp"

namespace printed_test {

namespace {

using namespace sidestep;

void nothing() {}

// A FILE that another thread holds, as one in fgets(3) does, with text that waits in its buffer.
class HeldFile {
  public:
    explicit HeldFile(const std::string& path) : file_(std::fopen(path.c_str(), "w")) {
        std::fputs("once\n", file_);
        std::promise<void> held;
        thread_ = std::jthread([&held, this] {
            ::flockfile(file_);
            held.set_value();
            released_.get_future().wait();
            ::funlockfile(file_);
        });
        held.get_future().wait();
    }
    ~HeldFile() {
        released_.set_value();
        thread_.join();
        std::fclose(file_);
    }

  private:
    FILE* file_;
    std::promise<void> released_;
    std::jthread thread_;
};
void leave_a_held_file(std::string path) { new HeldFile(path); }

void say_where_it_waits(const std::string& text) {
    std::cout << "cout " << text << '\n';
    std::clog << "clog " << text << '\n';
    std::wcout << "wcout " << text.c_str() << '\n';
    std::printf("printf %s\n", text.c_str());
}
void say_in_the_copy() { say_where_it_waits("of the copy"); }
// Its stdout and stderr are a file, and streams of C++ have buffers of their own.
void print_and_fork(std::string path, StartMethod method) {
    std::ios::sync_with_stdio(false);
    if (!std::freopen(path.c_str(), "a", stdout) || ::dup2(1, 2) < 0) std::abort();
    say_where_it_waits("of the first");
    Process copy({.start_method = method}, say_in_the_copy);
    copy.start();
    copy.join();
    copy.rethrow();
}

std::string text_in(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
}
std::string fresh_path(const char* name) {
    return std::filesystem::temp_directory_path() /
           ("sidestep-" + std::string(name) + "-" + std::to_string(::getpid()));
}

}  // namespace

TEST_CASE("a copy of the process waits for no FILE that a thread holds, and writes nothing of it",
          "[process][fork][output]") {
    const std::string path = fresh_path("held");
    {
        HeldFile held(path);
        Process p({.start_method = StartMethod::fork_threaded}, nothing);
        auto started = std::async(std::launch::async, [&] { p.start(); });
        REQUIRE(started.wait_for(test::kPatience) == std::future_status::ready);
        started.get();
        p.join();
        CHECK(p.exitcode() == 0);
        CHECK(text_in(path).empty());
    }
    CHECK(text_in(path) == "once\n");
    std::filesystem::remove(path);
}

TEST_CASE("a process ends though a thread holds a FILE, and what waits there is written",
          "[process][output]") {
    FOR_EACH_START_METHOD();
    const std::string path = fresh_path("left");
    Process p({.daemon = true, .start_method = method}, leave_a_held_file, path);
    p.start();
    REQUIRE(p.join_for(test::kPatience));
    CHECK(p.exitcode() == 0);
    CHECK(text_in(path) == "once\n");
    std::filesystem::remove(path);
}

TEST_CASE("what waits in buffers is written once, by who printed it", "[process][fork][output]") {
    auto method = GENERATE(StartMethod::fork, StartMethod::fork_threaded);
    const std::string path = fresh_path("streams");
    Process p(print_and_fork, path, method);
    p.start();
    p.join();
    CHECK_NOTHROW(p.rethrow());
    std::istringstream lines(text_in(path));
    std::map<std::string, int> times;
    for (std::string line; std::getline(lines, line);) ++times[line];
    CHECK(times == std::map<std::string, int>{{"cout of the first", 1},
                                              {"cout of the copy", 1},
                                              {"clog of the first", 1},
                                              {"clog of the copy", 1},
                                              {"wcout of the first", 1},
                                              {"wcout of the copy", 1},
                                              {"printf of the first", 1},
                                              {"printf of the copy", 1}});
    std::filesystem::remove(path);
}

}  // namespace printed_test

// CPython's _TestFinalize, _TestAtExit and _TestLogging.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include <sidestep/connection.hpp>
#include <sidestep/logging.hpp>
#include <sidestep/process.hpp>

#include "process_support.hpp"

namespace py_exit_hooks_test {

namespace {

using namespace sidestep;
using namespace std::string_literals;

void finalize_all(Connection conn) {
    auto shared = std::make_shared<Connection>(std::move(conn));
    auto send = [shared](const char* text) { return [=] { shared->send(std::string(text)); }; };
    { Finalizer a(send("a")); }  // by the destructor
    Finalizer b(send("b"));
    b();
    b();                     // does nothing
    Finalizer c(send("c"));  // no exit priority: not at the exit
    Finalizer d10(send("d10"), 1), d01(send("d01"), 0), d02(send("d02"), 0), d03(send("d03"), 0);
    Finalizer cancelled(send("cancelled"), 0);
    cancelled.cancel();
    at_exit(send("e"), -10);
    run_exit_hooks();
    shared->send("STOP"s);
    ::_exit(0);  // without the destructors
}

}  // namespace

TEST_CASE("clean-ups happen once: when called, when dropped, or at the exit by priority",
          "[process][py:_TestFinalize.test_finalize]") {
    FOR_EACH_START_METHOD();
    auto [here, there] = Pipe();
    Process p({.daemon = true, .start_method = method}, finalize_all, std::move(there));
    p.start();
    p.join();
    std::vector<std::string> result;
    for (auto text = here.recv<std::string>(); text != "STOP"; text = here.recv<std::string>())
        result.push_back(text);
    CHECK(result == std::vector{"a"s, "b"s, "d10"s, "d03"s, "d02"s, "d01"s, "e"s});
}

TEST_CASE("a hook that a child registers runs at its end, once, and not in its parent",
          "[process][py:_TestAtExit.test_atexit]") {
    FOR_EACH_START_METHOD();
    const int way_out = GENERATE(0, 1, 2, 3);
    auto file =
        std::filesystem::temp_directory_path() / ("sidestep-atexit-" + std::to_string(::getpid()));
    bool ran_here = false;
    Finalizer ours([&] { ran_here = true; }, 5);  // a forked child must not run it
    Process p(
        {.start_method = method},
        [](const std::string& path, int way) {
            at_exit([=] { std::ofstream(path, std::ios::app) << "deadbeef"; });
            if (way == 1) std::exit(3);
            if (way == 2) exit_process(3);
            if (way == 3) throw std::runtime_error("out");
        },
        file.string(), way_out);
    p.start();
    p.join();
    CHECK(p.exitcode() == (way_out == 0 ? 0 : way_out == 3 ? 1 : 3));
    std::ifstream in(file);
    CHECK(std::string(std::istreambuf_iterator<char>(in), {}) == "deadbeef");
    std::filesystem::remove(file);
    CHECK_FALSE(ran_here);
    ours();
    CHECK(ran_here);
}

// --- the log -----------------------------------------------------------------------------------

namespace {

// The log as it was before.
class SaveLog {
  public:
    SaveLog() : level_(get_logger().level()) {}
    ~SaveLog() {
        get_logger().set_level(level_);
        set_default_log_level(LogLevel::warning);
        get_logger().clear_sinks();
    }
    SaveLog(const SaveLog&) = delete;
    SaveLog& operator=(const SaveLog&) = delete;

  private:
    LogLevel level_;
};

}  // namespace

TEST_CASE("a logger prints what is at its level or above",
          "[process][log][py:_TestLogging.test_enable_logging]") {
    SaveLog saved;
    Logger& logger = get_logger();
    std::vector<std::string> lines;
    logger.add_sink([&](const LogRecord& r) { lines.emplace_back(r.message); });
    logger.set_level(LogLevel::warning);
    logger.debug("this will not be printed");
    logger.info("nor will this");
    logger.warning("but this");
    logger.set_level(LogLevel::off);
    logger.critical("nothing goes through");
    CHECK(lines == std::vector{"but this"s});
}

TEST_CASE("children have the level of their parent's logger, or the default level",
          "[process][log][py:_TestLogging.test_level]") {
    FOR_EACH_START_METHOD();
    SaveLog saved;
    auto level_in_child = [&] {
        auto [receiver, sender] = Pipe({.duplex = false});
        Process p(
            {.start_method = method},
            [](Connection to) { to.send(static_cast<int>(get_logger().effective_level())); },
            std::move(sender));
        p.start();
        auto level = static_cast<LogLevel>(receiver.recv<int>());
        p.join();
        return level;
    };
    get_logger().set_level(LogLevel::error);
    CHECK(level_in_child() == LogLevel::error);
    get_logger().set_level(LogLevel::not_set);
    set_default_log_level(LogLevel::critical);
    CHECK(get_logger().effective_level() == LogLevel::critical);
    CHECK(level_in_child() == LogLevel::critical);
}

TEST_CASE("a line of the log knows its file and line, process and pid",
          "[process][log][py:_TestLogging.test_filename]") {
    SaveLog saved;
    Logger& logger = get_logger();
    logger.set_level(LogLevel::debug);
    std::vector<std::string> lines;
    int line = 0;
    logger.add_sink([&](const LogRecord& r) {
        lines.push_back(std::string(r.file) + " " + std::string(r.message));
        line = r.line;
        CHECK(r.process == "MainProcess");
        CHECK(r.pid == ::getpid());
    });
    logger.info("1");
    CHECK(line == __LINE__ - 1);
    logger.debug("2");
    logger.warning("3");
    CHECK(lines == std::vector{"py_exit_hooks_test.cpp 1"s, "py_exit_hooks_test.cpp 2"s,
                               "py_exit_hooks_test.cpp 3"s});
}

TEST_CASE("the log of children goes to stderr with their names, if the parent's does",
          "[process][log]") {
    FOR_EACH_START_METHOD();
    SaveLog saved;
    auto file =
        std::filesystem::temp_directory_path() / ("sidestep-log-" + std::to_string(::getpid()));
    int former = ::dup(STDERR_FILENO);
    std::FILE* to = std::fopen(file.c_str(), "we");
    ::dup2(::fileno(to), STDERR_FILENO);
    std::fclose(to);
    log_to_stderr(LogLevel::info);
    log_to_stderr();  // once is enough
    Process p({.name = "Logger", .start_method = method}, [] { get_logger().info("half done"); });
    p.start();
    p.join();
    stop_forkserver();
    ::dup2(former, STDERR_FILENO);
    ::close(former);
    std::ifstream in(file);
    std::string text(std::istreambuf_iterator<char>(in), {});
    std::filesystem::remove(file);
    CHECK(text ==
          "[info/Logger] child process calling its function\n[info/Logger] half done\n"
          "[info/Logger] process exiting with exit code 0\n");
}

}  // namespace py_exit_hooks_test

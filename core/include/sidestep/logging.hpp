// The library's log, and yours if you like: lines with the name of the process.
//
//     sidestep::log_to_stderr(sidestep::LogLevel::debug);
//     sidestep::get_logger().info("half done");           // [info/MainProcess] half done
//
// The library itself says at info and debug when children start and end. Nothing is written
// anywhere until log_to_stderr() or add_sink() was called.
//
// Threads: thread-safe. Sinks are called one at a time; they may log.
// Fork:    each process has a log of its own. A child inherits, under each start method, the level
//          and whether it goes to stderr; sinks of your own belong to the process that added them.
// Errors:  what a sink throws is written to stderr.
#pragma once

#include <functional>
#include <string_view>

namespace sidestep::inline v0 {

// not_set: as the default level is.
enum class LogLevel { not_set, trace, debug, info, warning, error, critical, off };

// Where a line of the log comes from: the caller's file and line.
struct SourceLine {
    const char* file = "";
    int line = 0;
    static constexpr SourceLine current(const char* file = __builtin_FILE(),
                                        int line = __builtin_LINE()) {
        return {file, line};
    }
};

// Valid during the call of the sink.
struct LogRecord {
    LogLevel level;
    std::string_view process;  // its name
    int pid;
    std::string_view file;  // without its folders
    int line;
    std::string_view message;
};

// The log of this process.
class Logger {
  public:
    LogLevel level() const;
    void set_level(LogLevel level);
    // level(), or the default level where that is not set.
    LogLevel effective_level() const;
    bool is_enabled(LogLevel level) const { return level >= effective_level(); }

    void add_sink(std::function<void(const LogRecord&)> sink);
    // Removes all sinks, stderr too.
    void clear_sinks();

    void log(LogLevel level, std::string_view message, SourceLine where = SourceLine::current());
    void debug(std::string_view message, SourceLine where = SourceLine::current()) {
        log(LogLevel::debug, message, where);
    }
    void info(std::string_view message, SourceLine where = SourceLine::current()) {
        log(LogLevel::info, message, where);
    }
    void warning(std::string_view message, SourceLine where = SourceLine::current()) {
        log(LogLevel::warning, message, where);
    }
    void error(std::string_view message, SourceLine where = SourceLine::current()) {
        log(LogLevel::error, message, where);
    }
    void critical(std::string_view message, SourceLine where = SourceLine::current()) {
        log(LogLevel::critical, message, where);
    }
};

Logger& get_logger();
// Lets the log go to stderr, once; sets the level unless it is not_set.
Logger& log_to_stderr(LogLevel level = LogLevel::not_set);
// What loggers without a level have: warning, unless set. Children inherit it, too.
void set_default_log_level(LogLevel level);

}  // namespace sidestep

#include <sidestep/logging.hpp>

// spdlog's headers become code of this file: under a name of its own, since a program may have
// another spdlog, and a linker takes two functions of one name for one. (fmt needs no such thing:
// its names carry its version.)
#define spdlog sidestep_spdlog
#include <spdlog/logger.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "process/log_settings.hpp"
#include "process/process_protocol.hpp"
#include "process/process_state.hpp"
#include "sys/per_process.hpp"

namespace sidestep::inline v0 {
namespace {

struct State {
    std::recursive_mutex mutex;  // a sink may log
    // Guarded by mutex. Made anew when the sinks change: one that is logging just now keeps its
    // own.
    std::shared_ptr<spdlog::logger> logger;
    bool to_stderr = false;  // guarded by mutex
};
PerProcess<State> states;

// Survive fork. Relaxed: each stands alone.
std::atomic<LogLevel> own_level{LogLevel::not_set};
std::atomic<LogLevel> default_level{LogLevel::warning};
std::atomic<bool> stderr_wanted{false};

constexpr spdlog::level::level_enum kLevels[] = {
    spdlog::level::trace, spdlog::level::trace, spdlog::level::debug,    spdlog::level::info,
    spdlog::level::warn,  spdlog::level::err,   spdlog::level::critical, spdlog::level::off};

spdlog::level::level_enum to_spdlog(LogLevel level) { return kLevels[static_cast<int>(level)]; }
LogLevel from_spdlog(spdlog::level::level_enum level) {
    for (LogLevel l :
         {LogLevel::debug, LogLevel::info, LogLevel::warning, LogLevel::error, LogLevel::critical})
        if (to_spdlog(l) == level) return l;
    return LogLevel::trace;
}

const char* base_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash ? slash + 1 : path;
}

class FunctionSink final : public spdlog::sinks::base_sink<spdlog::details::null_mutex> {
  public:
    explicit FunctionSink(std::function<void(const LogRecord&)> function)
        : function_(std::move(function)) {}

  private:
    void sink_it_(const spdlog::details::log_msg& message) override {
        try {
            call(message);
        } catch (...) {
            print_current_exception("sidestep: a sink of the log threw:");
        }
    }
    void call(const spdlog::details::log_msg& message) {
        function_({from_spdlog(message.level),
                   {message.logger_name.data(), message.logger_name.size()},
                   ::getpid(),
                   message.source.filename ? message.source.filename : "",
                   message.source.line,
                   {message.payload.data(), message.payload.size()}});
    }
    void flush_() override {}

    std::function<void(const LogRecord&)> function_;
};

// `state` is locked.
void set_sinks(State& state, const std::vector<spdlog::sink_ptr>& sinks) {
    state.logger =
        std::make_shared<spdlog::logger>(current_process().name, sinks.begin(), sinks.end());
    state.logger->set_level(spdlog::level::trace);  // log() has looked at the level
    state.logger->flush_on(spdlog::level::trace);
}

void add(State& state, spdlog::sink_ptr sink) {
    sink->set_pattern("[%l/%n] %v");
    std::vector<spdlog::sink_ptr> sinks;
    if (state.logger) sinks = state.logger->sinks();
    sinks.push_back(std::move(sink));
    set_sinks(state, sinks);
}

void add_stderr(State& state) {
    if (std::exchange(state.to_stderr, true)) return;
    add(state, std::make_shared<spdlog::sinks::stderr_sink_st>());
}

// A copy of a process that logs to stderr does so, too.
State& locked_state(std::unique_lock<std::recursive_mutex>& lock) {
    State& state = states.get();
    lock = std::unique_lock(state.mutex);
    if (stderr_wanted && !state.to_stderr) add_stderr(state);
    return state;
}

}  // namespace

LogLevel Logger::level() const { return own_level; }
void Logger::set_level(LogLevel level) { own_level = level; }
LogLevel Logger::effective_level() const {
    LogLevel level = own_level;
    return level == LogLevel::not_set ? default_level.load() : level;
}

void Logger::add_sink(std::function<void(const LogRecord&)> sink) {
    std::unique_lock<std::recursive_mutex> lock;
    add(locked_state(lock), std::make_shared<FunctionSink>(std::move(sink)));
}

void Logger::clear_sinks() {
    std::unique_lock<std::recursive_mutex> lock;
    stderr_wanted = false;
    State& state = locked_state(lock);
    state.to_stderr = false;
    if (state.logger) set_sinks(state, {});
}

void Logger::log(LogLevel level, std::string_view message, SourceLine where) {
    if (level < effective_level() || level == LogLevel::off) return;
    std::unique_lock<std::recursive_mutex> lock;
    State& state = locked_state(lock);
    if (!state.logger) return;
    auto logger = state.logger;  // a sink may change the sinks
    logger->log(spdlog::source_loc{base_name(where.file), where.line, ""}, to_spdlog(level),
                spdlog::string_view_t(message.data(), message.size()));
}

Logger& get_logger() {
    static Logger logger;
    return logger;
}

Logger& log_to_stderr(LogLevel level) {
    stderr_wanted = true;
    if (level != LogLevel::not_set) get_logger().set_level(level);
    std::unique_lock<std::recursive_mutex> lock;
    (void)locked_state(lock);
    return get_logger();
}

void set_default_log_level(LogLevel level) {
    default_level = level == LogLevel::not_set ? LogLevel::warning : level;
}

LogSettings log_settings() {
    return {static_cast<std::int32_t>(own_level.load()),
            static_cast<std::int32_t>(default_level.load()), stderr_wanted};
}

void inherit_log_settings(const LogSettings& settings) {
    own_level = static_cast<LogLevel>(settings.level);
    default_level = static_cast<LogLevel>(settings.default_level);
    stderr_wanted = settings.to_stderr;
}

}  // namespace sidestep

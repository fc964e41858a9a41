// A program with a namespace spdlog of its own, whose functions have the names of the real one's
// and end the program: nothing of the library may call them, nor be called in their place.
#include <sidestep/init.hpp>
#include <sidestep/logging.hpp>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

namespace spdlog {
namespace level {
enum level_enum : int { trace, debug, info, warn, err, critical, off };
}
struct source_loc {};
namespace details {
struct log_msg {
    int not_what_it_was = 0;
};
}  // namespace details

[[noreturn]] void poisoned(const char* what) {
    std::fprintf(stderr, "the library called this program's %s\n", what);
    std::_Exit(9);
}

class logger {
  public:
    virtual ~logger();
    virtual std::shared_ptr<logger> clone(std::string);
    void set_level(level::level_enum);
    void flush();

  protected:
    virtual void sink_it_(const details::log_msg&);
    virtual void flush_();
    void err_handler_(const std::string&);
};
logger::~logger() { poisoned("~logger"); }
std::shared_ptr<logger> logger::clone(std::string) { poisoned("logger::clone"); }
void logger::set_level(level::level_enum) { poisoned("logger::set_level"); }
void logger::flush() { poisoned("logger::flush"); }
void logger::sink_it_(const details::log_msg&) { poisoned("logger::sink_it_"); }
void logger::flush_() { poisoned("logger::flush_"); }
void logger::err_handler_(const std::string&) { poisoned("logger::err_handler_"); }
}  // namespace spdlog

int main() {
    sidestep::init();
    sidestep::log_to_stderr(sidestep::LogLevel::info);
    sidestep::get_logger().info("this line is written by the library's own");
    std::puts("two logs in one program");
}

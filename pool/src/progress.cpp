#include <sidestep/progress.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

namespace sidestep {
namespace {

using namespace std::chrono_literals;
constexpr std::uint64_t kBarWidth = 20;

std::string human(double value) {
    if (value >= 1e6) return fmt::format("{:.1f} M", value / 1e6);
    if (value >= 1e4) return fmt::format("{:.1f} k", value / 1e3);
    return fmt::format("{:.0f} ", value);
}

std::string human_time(double seconds) {
    auto s = static_cast<std::uint64_t>(seconds + 0.5);
    if (s < 60) return fmt::format("{} s", s);
    if (s < 3600) return fmt::format("{}:{:02} min", s / 60, s % 60);
    return fmt::format("{}:{:02} h", s / 3600, s / 60 % 60);
}

}  // namespace

std::string format_progress(const ProgressOptions& options, std::uint64_t done,
                            std::chrono::nanoseconds elapsed) {
    double seconds = std::chrono::duration<double>(elapsed).count();
    double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
    std::string line = options.label.empty() ? "" : options.label + " ";
    std::uint64_t total = options.total;
    if (total == 0) return line + fmt::format("{}, {}/s", done, human(rate));
    std::uint64_t shown = std::min(done, total);  // a total may have been a guess
    std::uint64_t filled = shown * kBarWidth / total;
    std::string bar(filled, '=');
    if (filled < kBarWidth) bar += '>';
    bar.resize(kBarWidth, ' ');
    line +=
        fmt::format("{:3}% [{}] {}/{}, {}/s", shown * 100 / total, bar, done, total, human(rate));
    if (rate > 0 && done < total)
        line += fmt::format(", {} left", human_time(static_cast<double>(total - done) / rate));
    return line;
}

ProgressMeter::ProgressMeter(ProgressOptions options)
    : options_(std::move(options)), begin_(std::chrono::steady_clock::now()), last_(begin_) {
    if (!options_.out) options_.out = stderr;
    terminal_ = isatty(fileno(options_.out)) != 0;
}

ProgressMeter::~ProgressMeter() { finish(); }

void ProgressMeter::update(std::uint64_t done) {
    done_ = done;
    if (options_.quiet || done < look_at_) return;
    auto now = std::chrono::steady_clock::now();
    // About a hundred looks a second, whatever the rate is.
    double rate = static_cast<double>(done) / std::chrono::duration<double>(now - begin_).count();
    look_at_ = done + std::max<std::uint64_t>(1, static_cast<std::uint64_t>(rate / 100));
    if (now - last_ < (terminal_ ? 100ms : 5s)) return;
    last_ = now;
    show();
}

void ProgressMeter::show() {
    shown_ = true;
    std::string line = format_progress(options_, done_, std::chrono::steady_clock::now() - begin_);
    std::fprintf(options_.out, terminal_ ? "\r%s\033[K" : "%s\n", line.c_str());
    std::fflush(options_.out);
}

void ProgressMeter::finish() {
    if (std::exchange(finished_, true) || !shown_) return;
    show();
    if (terminal_) std::fputc('\n', options_.out);
}

}  // namespace sidestep

#include <sidestep/progress.hpp>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include "progress_screen.hpp"
#include "text/columns.hpp"

namespace sidestep::inline v0 {
namespace {

using namespace std::chrono_literals;
constexpr std::size_t kBarWidth = 20, kLeastBar = 5;
// Empty lines from the cursor to the bar: room for what others print between two refreshes.
constexpr std::size_t kRoom = 3;
constexpr std::string_view kGreen = "\033[32m", kRed = "\033[31m", kPlain = "\033[m";

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

// With kEighths, or of '='; the brackets are not of the width.
std::string bar_of(std::uint64_t part, std::uint64_t whole, std::size_t width,
                   ProgressStyle style) {
    constexpr std::array<const char*, 8> kEighths = {"",       "\u258f", "\u258e", "\u258d",
                                                     "\u258c", "\u258b", "\u258a", "\u2589"};
    const double filled =
        static_cast<double>(part) / static_cast<double>(whole) * static_cast<double>(width);
    const std::size_t full = std::min(static_cast<std::size_t>(filled), width);
    std::string bar;
    for (std::size_t i = 0; i < full; ++i) bar += style.blocks ? "\u2588" : "=";
    if (full < width) {
        const auto eighth = static_cast<std::size_t>((filled - static_cast<double>(full)) * 8);
        const std::string_view tip =
            style.blocks ? kEighths[std::min<std::size_t>(eighth, 7)] : ">";
        bar += tip;
        bar.append(width - full - (tip.empty() ? 0 : 1), ' ');
    }
    if (style.colour) bar = fmt::format("{}{}{}", kGreen, bar, kPlain);
    return " [" + bar + "]";
}

// 0: it is no terminal, or does not say.
winsize size_of_terminal(std::FILE* out) {
    winsize size = {};
    if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0) return {};
    return size;
}

std::string_view variable(const char* name) {
    const char* value = std::getenv(name);
    return value ? value : "";
}

// One that takes the cursor up and erases.
bool is_terminal(std::FILE* out) {
    const std::string_view kind = variable("TERM");
    return isatty(fileno(out)) != 0 && !kind.empty() && kind != "dumb";
}

ProgressStyle style_of_terminal() {
    const std::string_view kind = variable("TERM");
    ProgressStyle style;
    style.colour = variable("NO_COLOR").empty() && !kind.starts_with("vt");
    for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {  // the first that is set counts
        const std::string_view locale = variable(name);
        if (locale.empty()) continue;
        for (const char* utf8 : {"UTF-8", "utf-8", "UTF8", "utf8"})
            style.blocks |= locale.find(utf8) != std::string_view::npos && kind != "linux";
        break;
    }
    return style;
}

}  // namespace

std::string format_progress(const ProgressOptions& options, ProgressCount count,
                            std::chrono::nanoseconds elapsed, std::size_t columns,
                            ProgressStyle style) {
    double seconds = std::chrono::duration<double>(elapsed).count();
    double rate = seconds > 0 ? static_cast<double>(count.done) / seconds : 0;
    std::uint64_t total = options.total, done = count.done;
    std::uint64_t shown = std::min(done, total);  // a total may have been a guess
    std::string label = options.label.empty() ? "" : printable(options.label) + " ";
    std::string percent, counted = fmt::format("{}", done), failed, speed, took, left;
    if (total > 0) {
        percent = fmt::format("{:3}%", shown * 100 / total);
        counted = fmt::format(" {}/{}", done, total);
    }
    if (count.failed > 0) failed = fmt::format(", {} failed", count.failed);
    speed = fmt::format(", {}/s", human(rate));
    took = fmt::format(", {}", human_time(seconds));
    if (rate > 0 && done < total)
        left = fmt::format(", {} left", human_time(static_cast<double>(total - done) / rate));

    // What is least missed goes first.
    std::size_t bar = total > 0 ? kBarWidth + 3 : 0;
    auto excess = [&] {
        std::size_t width = columns_of(label) + percent.size() + bar + counted.size() +
                            failed.size() + speed.size() + took.size() + left.size();
        return columns > 0 && width > columns ? width - columns : 0;
    };
    if (bar > 0) bar -= std::min(excess(), bar - kLeastBar - 3);
    if (excess() > 0) took.clear();
    if (excess() > 0) bar = 0;
    if (excess() > 0) speed.clear();
    if (excess() > 0) left.clear();
    if (excess() > 0 && !label.empty()) {
        std::size_t width = columns_of(label);
        std::size_t kept = width > excess() + 1 ? width - excess() - 1 : 0;
        cut_to_columns(label, kept);
        if (kept > 0) label += ' ';
    }
    if (excess() > 0 && total > 0) counted.clear();
    if (excess() > 0) failed.clear();
    if (excess() > 0) cut_to_columns(counted, columns);  // without a total: all that is left
    const bool too_wide = excess() > 0;                  // of nothing that has a colour
    if (style.colour && !failed.empty()) failed = fmt::format("{}{}{}", kRed, failed, kPlain);
    std::string line = label + percent + (bar > 0 ? bar_of(shown, total, bar - 3, style) : "") +
                       counted + failed + speed + took + left;
    if (too_wide) cut_to_columns(line, columns);
    return line;
}

ProgressMeter::ProgressMeter(ProgressOptions options)
    : options_(std::move(options)), begin_(std::chrono::steady_clock::now()), last_(begin_) {
    if (!options_.out) options_.out = stderr;
    terminal_ = is_terminal(options_.out);
    if (terminal_) style_ = style_of_terminal();
}

ProgressMeter::~ProgressMeter() { finish(); }

void ProgressMeter::update(std::uint64_t done, std::uint64_t failed) {
    count_ = {done, failed};
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
    auto elapsed = std::chrono::steady_clock::now() - begin_;
    if (terminal_) return draw(elapsed);
    std::fprintf(options_.out, "%s\n", format_progress(options_, count_, elapsed).c_str());
    std::fflush(options_.out);
}

// The cursor goes back to the begin of an empty line above the bar. From there all that is below it
// is erased; and a line that somebody prints has its own.
void ProgressMeter::draw(std::chrono::nanoseconds elapsed) {
    winsize size = size_of_terminal(options_.out);
    std::size_t columns = size.ws_col > 1 ? size.ws_col - 1u : 79;  // the last one may wrap
    std::size_t rows = size.ws_row > 0 ? size.ws_row : 24;
    std::size_t room = finished_ ? 0 : std::min(kRoom, rows - 1);
    std::string text =
        std::string(room, '\n') + format_progress(options_, count_, elapsed, columns, style_);
    if (finished_) return detail::ProgressScreen::here().finish(this, options_.out, text + '\n');
    std::size_t up = room;
    if (options_.lines) {
        for (std::string& line : options_.lines()) {
            if (up + 2 > rows) break;
            line = printable(line);
            cut_to_columns(line, columns);
            text += '\n' + line;
            ++up;
        }
    }
    text += up > 0 ? fmt::format("\033[{}A\r", up) : "\r";
    detail::ProgressScreen::here().show(this, options_.out, text);
}

void ProgressMeter::print_above(const std::function<void()>& write) {
    const detail::BarAside aside(fileno(options_.out));
    write();
}

void ProgressMeter::finish() {
    if (std::exchange(finished_, true) || !shown_) return;
    show();
}

}  // namespace sidestep

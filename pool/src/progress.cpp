#include <sidestep/progress.hpp>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace sidestep::inline v0 {
namespace {

using namespace std::chrono_literals;
constexpr std::size_t kBarWidth = 20, kLeastBar = 5;
// Empty lines from the cursor to the bar: room for what others print between two refreshes.
constexpr std::size_t kRoom = 3;

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

// Characters of UTF-8, for a label that is not ASCII.
bool begins_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }
std::size_t width_of(const std::string& text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), begins_character));
}
void cut(std::string& text, std::size_t columns) {
    std::size_t width = 0;
    for (std::size_t i = 0; i < text.size(); ++i)
        if (begins_character(text[i]) && width++ == columns) return text.resize(i);
}

std::string bar_of(std::uint64_t part, std::uint64_t whole, std::size_t width) {
    auto filled = static_cast<std::size_t>(static_cast<double>(part) / static_cast<double>(whole) *
                                           static_cast<double>(width));
    std::string bar(std::min(filled, width), '=');
    if (filled < width) bar += '>';
    bar.resize(width, ' ');
    return " [" + bar + "]";
}

// 0: it is no terminal, or does not say.
winsize size_of_terminal(std::FILE* out) {
    winsize size = {};
    if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0) return {};
    return size;
}

}  // namespace

std::string format_progress(const ProgressOptions& options, ProgressCount count,
                            std::chrono::nanoseconds elapsed, std::size_t columns) {
    double seconds = std::chrono::duration<double>(elapsed).count();
    double rate = seconds > 0 ? static_cast<double>(count.done) / seconds : 0;
    std::uint64_t total = options.total, done = count.done;
    std::uint64_t shown = std::min(done, total);  // a total may have been a guess
    std::string label = options.label.empty() ? "" : options.label + " ";
    std::string percent, counted = fmt::format("{}", done), failed, speed, left;
    if (total > 0) {
        percent = fmt::format("{:3}%", shown * 100 / total);
        counted = fmt::format(" {}/{}", done, total);
    }
    if (count.failed > 0) failed = fmt::format(", {} failed", count.failed);
    speed = fmt::format(", {}/s", human(rate));
    if (rate > 0 && done < total)
        left = fmt::format(", {} left", human_time(static_cast<double>(total - done) / rate));

    // What is least missed goes first.
    std::size_t bar = total > 0 ? kBarWidth + 3 : 0;
    auto excess = [&] {
        std::size_t width = width_of(label) + percent.size() + bar + counted.size() +
                            failed.size() + speed.size() + left.size();
        return columns > 0 && width > columns ? width - columns : 0;
    };
    if (bar > 0) bar -= std::min(excess(), bar - kLeastBar - 3);
    if (excess() > 0) bar = 0;
    if (excess() > 0) speed.clear();
    if (excess() > 0) left.clear();
    if (excess() > 0 && !label.empty()) {
        std::size_t width = width_of(label);
        std::size_t kept = width > excess() + 1 ? width - excess() - 1 : 0;
        cut(label, kept);
        if (kept > 0) label += ' ';
    }
    if (excess() > 0 && total > 0) counted.clear();
    if (excess() > 0) failed.clear();
    std::string line = label + percent + (bar > 0 ? bar_of(shown, total, bar - 3) : "") + counted +
                       failed + speed + left;
    if (columns > 0) cut(line, columns);
    return line;
}

ProgressMeter::ProgressMeter(ProgressOptions options)
    : options_(std::move(options)), begin_(std::chrono::steady_clock::now()), last_(begin_) {
    if (!options_.out) options_.out = stderr;
    terminal_ = isatty(fileno(options_.out)) != 0;
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

// On a terminal, the cursor goes back to the begin of an empty line above the bar. From there all
// that is below it is erased, also what a narrower window has wrapped; and a line that somebody
// prints has its own.
void ProgressMeter::show() {
    shown_ = true;
    auto elapsed = std::chrono::steady_clock::now() - begin_;
    if (!terminal_) {
        std::fprintf(options_.out, "%s\n", format_progress(options_, count_, elapsed).c_str());
    } else {
        winsize size = size_of_terminal(options_.out);
        std::size_t columns = size.ws_col > 1 ? size.ws_col - 1u : 79;  // the last one may wrap
        std::size_t rows = size.ws_row > 0 ? size.ws_row : 24;
        std::size_t room = finished_ ? 0 : std::min(kRoom, rows - 1);
        std::string line = format_progress(options_, count_, elapsed, columns);
        std::string text = "\r\033[J" + std::string(room, '\n') + line;
        if (room > 0) text += fmt::format("\033[{}A\r", room);
        std::fputs(text.c_str(), options_.out);
    }
    std::fflush(options_.out);
}

void ProgressMeter::finish() {
    if (std::exchange(finished_, true) || !shown_) return;
    show();
    if (terminal_) std::fputc('\n', options_.out);
    std::fflush(options_.out);
}

}  // namespace sidestep

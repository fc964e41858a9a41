#include "progress_screen.hpp"

#include <unistd.h>

#include "sys/per_process.hpp"

namespace sidestep::inline v0::detail {
namespace {

PerProcess<ProgressScreen> screen_of_process;
// From the begin of the bar's room to the end of the screen: also what a narrower window wrapped.
constexpr const char* kErase = "\r\033[J";

}  // namespace

ProgressScreen& ProgressScreen::here() { return screen_of_process.get(); }

void ProgressScreen::draw(std::FILE* out, const std::string& text) {
    std::fputs(kErase, out);
    std::fputs(text.c_str(), out);
    std::fflush(out);
}

void ProgressScreen::show(const void* owner, std::FILE* out, const std::string& text) {
    std::lock_guard lock(mutex_);
    owner_ = owner;
    out_ = out;
    text_ = text;
    draw(out, text);
}

void ProgressScreen::finish(const void* owner, std::FILE* out, const std::string& text) {
    std::lock_guard lock(mutex_);
    if (owner_ == owner) owner_ = nullptr;
    draw(out, text);
}

BarAside::BarAside(int fd) : screen_(ProgressScreen::here()), lock_(screen_.mutex_) {
    drawn_ = screen_.owner_ && ::isatty(fd) != 0;
    if (drawn_) ProgressScreen::draw(screen_.out_, "");
}

BarAside::~BarAside() {
    if (drawn_) ProgressScreen::draw(screen_.out_, screen_.text_);
}

}  // namespace sidestep::detail

// The progress bar that is on a terminal now, as other writers of this process have to know it:
// what they print goes above it.
#pragma once

#include <cstdio>
#include <mutex>
#include <string>

namespace sidestep::inline v0::detail {

// Of the whole process; one bar is known, the last that was shown. Threads: thread-safe.
class ProgressScreen {
  public:
    static ProgressScreen& here();

    // `text` draws the bar anew, wherever the cursor is at the begin of a line.
    void show(const void* owner, std::FILE* out, const std::string& text);
    // Draws its last state, which stays above what is printed from now on.
    void finish(const void* owner, std::FILE* out, const std::string& text);

  private:
    friend class BarAside;
    static void draw(std::FILE* out, const std::string& text);

    std::mutex mutex_;
    // Guarded by mutex_.
    const void* owner_ = nullptr;  // null: there is no bar
    std::FILE* out_ = nullptr;
    std::string text_;
};

// While it lives, this thread writes whole lines to the descriptor: if that is a terminal, the bar
// is not there. (The descriptor may lead to another terminal than the bar's: then that blinks.)
class BarAside {
  public:
    explicit BarAside(int fd);
    ~BarAside();
    BarAside(const BarAside&) = delete;
    BarAside& operator=(const BarAside&) = delete;

  private:
    ProgressScreen& screen_;
    const std::lock_guard<std::mutex> lock_;
    bool drawn_ = false;
};

}  // namespace sidestep::detail

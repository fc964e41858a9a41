// What a program shows on a terminal: one of the kernel's, and who looks at it.
#pragma once

#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "variable.hpp"

namespace test {

// A terminal that knows what the bar needs: wrapping, cursor up, erase to the end, UTF-8.
class Terminal {
  public:
    explicit Terminal(unsigned short columns, unsigned short rows = 24, const char* kind = "vt100",
                      const char* locale = "C")
        : kind_("TERM", kind), locale_("LC_ALL", locale), size_{rows, columns, 0, 0} {
        int slave = -1;
        REQUIRE(::openpty(&master_, &slave, nullptr, nullptr, &size_) == 0);
        file_ = ::fdopen(slave, "w");
        REQUIRE(::fcntl(master_, F_SETFL, O_NONBLOCK) == 0);
    }
    ~Terminal() {
        std::fclose(file_);
        ::close(master_);
    }
    Terminal(const Terminal&) = delete;
    Terminal& operator=(const Terminal&) = delete;

    std::FILE* file() { return file_; }
    int fd() const { return fileno(file_); }
    // All that was written to it.
    const std::string& bytes() {
        read();
        return bytes_;
    }
    void print(const std::string& text) {
        std::fputs(text.c_str(), file_);
        std::fflush(file_);
        read();
    }
    void resize_to(unsigned short columns) {
        read();
        size_.ws_col = columns;
        REQUIRE(::ioctl(master_, TIOCSWINSZ, &size_) == 0);
    }
    std::size_t columns() const { return column_; }
    // What is shown, without the empty lines.
    std::vector<std::string> lines() {
        read();
        std::vector<std::string> all;
        for (const auto& line : lines_) {
            std::string text;
            for (const std::string& cell : line) text += cell;
            if (!text.empty()) all.push_back(text);
        }
        return all;
    }
    bool wrapped() const { return wrapped_; }

  private:
    void read() {
        char bytes[4096];
        for (ssize_t n; (n = ::read(master_, bytes, sizeof bytes)) > 0;) {
            bytes_.append(bytes, static_cast<std::size_t>(n));
            for (ssize_t i = 0; i < n; ++i) put(bytes[i]);
        }
    }
    void put(char c) {
        if (!escape_.empty() || c == '\033') return sequence(c);
        if (c == '\r') {
            column_ = 0;
        } else if (c == '\n') {
            go_down();
        } else if ((static_cast<unsigned char>(c) & 0xc0) == 0x80) {
            lines_[row_].at(column_ - 1) += c;
        } else {
            if (column_ == size_.ws_col) {
                wrapped_ = true;
                column_ = 0;
                go_down();
            }
            std::vector<std::string>& line = lines_[row_];
            line.resize(std::max(line.size(), column_ + 1), " ");
            line[column_++] = c;
        }
    }
    void go_down() {
        if (++row_ == lines_.size()) lines_.emplace_back();
    }
    void sequence(char c) {
        escape_ += c;
        if (c == 'J') {
            lines_[row_].resize(std::min(lines_[row_].size(), column_));
            lines_.resize(row_ + 1);
        } else if (c == 'A') {
            auto up = static_cast<std::size_t>(std::stoi(escape_.substr(2)));
            REQUIRE(up <= row_);
            row_ -= up;
        } else if (c != 'm') {  // a colour
            return;
        }
        escape_.clear();
    }

    const Variable kind_, locale_;
    winsize size_;
    int master_ = -1;
    std::FILE* file_ = nullptr;
    std::vector<std::vector<std::string>> lines_{{}};  // of cells
    std::string bytes_;
    std::size_t row_ = 0, column_ = 0;
    std::string escape_;
    bool wrapped_ = false;
};

}  // namespace test

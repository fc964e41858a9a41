// progress(): what a terminal shows, and what is counted.
#include <sidestep/progress.hpp>

#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

// A terminal that knows what the bar needs: wrapping, scrolling, cursor up, erase to the end.
class Terminal {
  public:
    explicit Terminal(unsigned short columns, unsigned short rows = 24)
        : size_{rows, columns, 0, 0} {
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
    void print(const std::string& text) {
        std::fputs(text.c_str(), file_);
        std::fflush(file_);
        read();
    }
    void narrow_to(unsigned short columns) {
        read();
        size_.ws_col = columns;
        REQUIRE(::ioctl(master_, TIOCSWINSZ, &size_) == 0);
    }
    // What is shown, without the empty lines.
    std::vector<std::string> lines() {
        read();
        std::vector<std::string> all;
        for (const std::string& line : lines_)
            if (!line.empty()) all.push_back(line);
        return all;
    }
    bool wrapped() const { return wrapped_; }

  private:
    void read() {
        char bytes[4096];
        for (ssize_t n; (n = ::read(master_, bytes, sizeof bytes)) > 0;)
            for (ssize_t i = 0; i < n; ++i) put(bytes[i]);
    }
    void put(char c) {
        if (!escape_.empty() || c == '\033') return sequence(c);
        if (c == '\r') {
            column_ = 0;
        } else if (c == '\n') {
            go_down();
        } else {
            if (column_ == size_.ws_col) {
                wrapped_ = true;
                column_ = 0;
                go_down();
            }
            std::string& line = lines_[row_];
            line.resize(std::max(line.size(), column_ + 1), ' ');
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
        } else {
            return;
        }
        escape_.clear();
    }

    winsize size_;
    int master_ = -1;
    std::FILE* file_ = nullptr;
    std::vector<std::string> lines_{""};
    std::size_t row_ = 0, column_ = 0;
    std::string escape_;
    bool wrapped_ = false;
};

// Until the meter has written again.
void refresh(mp::ProgressMeter& meter, std::uint64_t& done) {
    (void)test::eventually([] { return false; }, 120ms);
    meter.update(++done);
}

}  // namespace

TEST_CASE("the bar fits whatever width there is", "[pool][progress]") {
    mp::ProgressOptions options{.total = 400, .label = "converting pictures"};
    std::string whole = mp::format_progress(options, {150, 3}, 2s);
    CHECK(whole ==
          "converting pictures  37% [=======>            ] 150/400, 3 failed, 75 /s, "
          "3 s left");
    for (std::size_t columns = 1; columns < 120; ++columns) {
        std::string line = mp::format_progress(options, {150, 3}, 2s, columns);
        INFO(columns << ": " << line);
        CHECK(line.size() <= columns);
        CHECK(line.size() + 20 >= std::min(columns, whole.size()));
        if (columns >= 20) CHECK_THAT(line, Catch::Contains("37%"));
        if (columns >= 40) CHECK_THAT(line, Catch::Contains("150/400, 3 failed"));
    }
    CHECK(mp::format_progress(options, {150, 3}, 2s, 100) == whole);
    CHECK(mp::format_progress({.label = "äöü"}, {7}, 1s, 3) == "ä 7");
    CHECK(mp::format_progress({.label = "x"}, 7, 1s) == "x 7, 7 /s");
    CHECK(mp::format_progress({.total = 4}, {9}, 1s, 60) ==
          "100% [====================] 9/4, 9 /s");
}

TEST_CASE("on a narrow terminal the bar stays on its line, and what is printed has its own",
          "[pool][progress]") {
    auto columns = GENERATE(as<unsigned short>(), 10, 40, 80, 200);
    Terminal terminal(columns);
    std::uint64_t done = 0;
    {
        mp::ProgressMeter meter(
            {.total = 400, .label = "converting pictures", .out = terminal.file()});
        for (int i = 0; i < 3; ++i) refresh(meter, done);
        CHECK(terminal.lines().size() == 1);
        terminal.print("first\n");
        refresh(meter, done);
        terminal.print("second\nthird\nlast\n");
        refresh(meter, done);
        std::vector<std::string> lines = terminal.lines();
        REQUIRE(lines.size() == 5);
        CHECK(std::vector(lines.begin(), lines.end() - 1) ==
              std::vector<std::string>{"first", "second", "third", "last"});
    }
    CHECK(terminal.lines().size() == 5);
    terminal.print("after\n");
    CHECK(terminal.lines().back() == "after");
    CHECK_FALSE(terminal.wrapped());
}

TEST_CASE("the bar follows a terminal that becomes narrower", "[pool][progress]") {
    Terminal terminal(100);
    std::uint64_t done = 0;
    mp::ProgressMeter meter({.total = 400, .label = "converting pictures", .out = terminal.file()});
    refresh(meter, done);
    REQUIRE(terminal.lines().size() == 1);
    CHECK(terminal.lines()[0].size() > 30);
    terminal.narrow_to(30);
    refresh(meter, done);
    REQUIRE(terminal.lines().size() == 1);
    CHECK(terminal.lines()[0].size() < 30);
    CHECK_FALSE(terminal.wrapped());
}

TEST_CASE("a range that knows its size needs no total; failures are counted", "[pool][progress]") {
    auto last_line = [](auto loop) {
        Terminal terminal(120);
        loop(terminal);
        REQUIRE(terminal.lines().size() == 1);
        return terminal.lines()[0];
    };
    auto pause = [] { (void)test::eventually([] { return false; }, 60ms); };
    mp::ThreadPool pool({.threads = 1});
    auto picky = [](int i) {
        if (i % 3 == 1) throw std::domain_error("not that");
        return i;
    };
    CHECK_THAT(last_line([&](Terminal& terminal) {
                   for (int i : mp::progress(test::numbers(4), {.out = terminal.file()}))
                       (void)i, pause();
               }),
               Catch::Contains("] 4/4,"));
    CHECK_THAT(last_line([&](Terminal& terminal) {
                   auto stream = pool.imap(picky, test::numbers(5));
                   for (auto& item : mp::progress(stream.outcomes(), {.out = terminal.file()}))
                       (void)item, pause();
               }),
               Catch::Contains("] 5/5, 2 failed,"));
    CHECK_THAT(last_line([&](Terminal& terminal) {
                   auto stream = pool.imap(picky, test::numbers(5));
                   auto counted = mp::progress(stream, {.out = terminal.file()});
                   auto it = counted.begin();
                   pause();
                   CHECK_THROWS_AS(++it, std::domain_error);
                   pause();
                   ++it;
                   pause();
                   ++it;
               }),
               Catch::Contains("/5, 1 failed,"));
}

// progress(): what a terminal shows, and what is counted.
#include <sidestep/progress.hpp>

#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"
#include "stdout_file.hpp"
#include "terminal.hpp"
#include "variable.hpp"

namespace progress_test {

namespace mp = sidestep;
using namespace std::chrono_literals;
using test::Terminal;

namespace {

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
          "2 s, 3 s left");
    for (std::size_t columns = 1; columns < 120; ++columns) {
        std::string line = mp::format_progress(options, {150, 3}, 2s, columns);
        INFO(columns << ": " << line);
        CHECK(line.size() <= columns);
        CHECK(line.size() + 20 >= std::min(columns, whole.size()));
        mp::ProgressStyle all{.blocks = true, .colour = true};
        std::string styled = mp::format_progress(options, {150, 3}, 2s, columns, all);
        Terminal terminal(200);
        terminal.print(styled);
        CHECK(terminal.columns() == line.size());
        if (columns >= 20) CHECK_THAT(line, Catch::Contains("37%"));
        if (columns >= 40) CHECK_THAT(line, Catch::Contains("150/400, 3 failed"));
    }
    CHECK(mp::format_progress(options, {150, 3}, 2s, 100) == whole);
    CHECK(mp::format_progress({.label = "äöü"}, {7}, 1s, 3) == "ä 7");
    CHECK(mp::format_progress({.label = "x"}, 7, 1s) == "x 7, 7 /s, 1 s");
    CHECK(mp::format_progress({.total = 4}, {9}, 1s, 60) ==
          "100% [====================] 9/4, 9 /s, 1 s");
    // Two columns for a character of East Asia, none for an accent; and a label is one line.
    CHECK(mp::format_progress({.label = "\u65e5\u672c"}, {7}, 1s, 4) == "\u65e5 7");
    CHECK(mp::format_progress({.label = "\u65e5\u672c"}, {7}, 1s, 6) == "\u65e5\u672c 7");
    CHECK(mp::format_progress({.label = "e\u0301e"}, {7}, 1s, 4) == "e\u0301e 7");
    CHECK(mp::format_progress({.label = "a\nb\033[2J"}, 7, 1s) == "a b [2J 7, 7 /s, 1 s");
    CHECK(mp::format_progress({}, {123'456}, 1s, 3) == "123");
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
    terminal.resize_to(30);
    refresh(meter, done);
    REQUIRE(terminal.lines().size() == 1);
    CHECK(terminal.lines()[0].size() < 30);
    CHECK_FALSE(terminal.wrapped());
}

TEST_CASE("the bar follows a terminal that becomes wider", "[pool][progress]") {
    Terminal terminal(30);
    std::uint64_t done = 0;
    mp::ProgressMeter meter({.total = 400, .label = "converting pictures", .out = terminal.file()});
    refresh(meter, done);
    REQUIRE(terminal.lines().size() == 1);
    CHECK(terminal.lines()[0].size() < 30);
    terminal.resize_to(100);
    refresh(meter, done);
    REQUIRE(terminal.lines().size() == 1);
    CHECK(terminal.lines()[0].size() > 50);
    CHECK(terminal.lines()[0].size() < 100);
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

TEST_CASE("a terminal gets colours and eighths of a character if it has them",
          "[pool][progress][style]") {
    test::Variable no_colour("NO_COLOR", nullptr);
    auto shown = [](const char* kind, const char* locale) {
        Terminal terminal(80, 24, kind, locale);
        std::uint64_t done = 30;
        {
            mp::ProgressMeter meter({.total = 64, .out = terminal.file()});
            refresh(meter, done);
            meter.update(31, 2);
        }
        CHECK_FALSE(terminal.wrapped());
        return terminal.bytes();
    };
    const std::string all = shown("xterm-256color", "C.UTF-8");
    CHECK_THAT(all, Catch::Contains("[\033[32m\u2588") && Catch::Contains("\u258b ") &&
                        Catch::Contains("\033[m] 31/64") &&
                        Catch::Contains("\033[31m, 2 failed\033[m"));
    CHECK_THAT(shown("xterm", "C"),
               Catch::Contains("[\033[32m=====") && !Catch::Contains("\u2588"));
    CHECK_THAT(shown("linux", "de_DE.utf8"),
               Catch::Contains("[\033[32m=====") && !Catch::Contains("\u2588"));
    CHECK_THAT(shown("vt220", "C"), Catch::Contains("[=====") && !Catch::Contains("\033[32m") &&
                                        !Catch::Contains("\033[31m"));
    no_colour.set("1");
    CHECK_THAT(shown("xterm", "C.UTF-8"), Catch::Contains("[\u2588") &&
                                              !Catch::Contains("\033[32m") &&
                                              !Catch::Contains("\033[31m"));
}

TEST_CASE("where the cursor cannot go up there are lines, and few", "[pool][progress][style]") {
    const char* kind = GENERATE("dumb", "");
    Terminal terminal(80, 24, kind);
    std::uint64_t done = 0;
    {
        mp::ProgressMeter meter({.total = 400, .out = terminal.file()});
        for (int i = 0; i < 3; ++i) refresh(meter, done);
    }
    CHECK(terminal.bytes().empty());  // in less than five seconds
}

TEST_CASE("lines below the bar go with it", "[pool][progress][lines]") {
    auto columns = GENERATE(as<unsigned short>(), 40, 80, 200);
    Terminal terminal(columns, 10);
    int calls = 0;
    std::uint64_t done = 0;
    {
        mp::ProgressMeter meter({.total = 400, .out = terminal.file(), .lines = [&] {
                                     ++calls;
                                     std::vector<std::string> lines(20, std::string(300, 'y'));
                                     lines[0] = "one\ntwo";
                                     return lines;
                                 }});
        refresh(meter, done);
        terminal.print("first\nsecond\n");
        refresh(meter, done);
        const std::vector<std::string> lines = terminal.lines();
        REQUIRE(lines.size() > 5);
        CHECK(lines.size() <= 10);
        CHECK(lines[0] == "first");
        CHECK(lines[1] == "second");
        CHECK_THAT(lines[2], Catch::Contains("/400"));
        CHECK(lines[3] == "one two");
        CHECK(lines[4] == std::string(columns - 1u, 'y'));
    }
    CHECK(calls == 2);
    CHECK(terminal.lines().size() == 3);  // the end has none of them
    CHECK_FALSE(terminal.wrapped());
}

TEST_CASE("worker_lines() says what each worker does", "[pool][progress][lines]") {
    test::SharedWords words(2);
    mp::Pool pool({.processes = 2});
    const auto lines = mp::worker_lines(pool);
    CHECK(lines() == std::vector<std::string>{"worker 0: -", "worker 1: -"});
    auto task = pool.submit({.key = 2, .name = "resize cat.jpg"}, test::wait_at, words.path(),
                            std::size_t(0), std::size_t(1));
    test::await(words[0]);
    std::vector<std::string> now = lines();
    REQUIRE(now.size() == 2);
    const std::string& busy = now[0] == "worker 0: -" ? now[1] : now[0];
    CHECK_THAT(busy, Catch::Contains(": task 1 (") && Catch::Contains("resize cat.jpg") &&
                         Catch::EndsWith("0 s"));
    words[1] = 1;
    task.wait();
    pool.close();
    pool.join();
    CHECK(lines() == std::vector<std::string>{"worker 0: none", "worker 1: none"});
}

TEST_CASE("any number of lines of tasks stays whole above the bar", "[pool][progress][lines]") {
    auto columns = GENERATE(as<unsigned short>(), 40, 80, 200);
    constexpr int kTasks = 300;
    auto print = [](int i) {
        std::printf("task %d is done\n", i);
        return i;
    };
    Terminal terminal(columns);
    std::uint64_t done = 0;
    {
        test::Redirected to_terminal(STDOUT_FILENO, fileno(terminal.file()));
        mp::ProgressMeter meter({.total = 1000, .out = terminal.file()});
        refresh(meter, done);
        mp::Pool pool({.processes = 2, .output = mp::Output::lines});
        auto all = pool.map_async(print, test::numbers(kTasks));
        while (!all.ready()) (void)terminal.lines();  // somebody looks
        CHECK(test::eventually([&] { return terminal.lines().size() == kTasks + 1; }));
        CHECK_THAT(terminal.lines().back(), Catch::Contains("1/1000"));
        refresh(meter, done);
    }
    const std::vector<std::string> lines = terminal.lines();
    REQUIRE(lines.size() == kTasks + 1);
    std::vector<int> seen;
    for (int i = 0; i < kTasks; ++i) {
        int number = -1, length = 0;
        std::sscanf(lines[static_cast<std::size_t>(i)].c_str(), "task %d is done%n", &number,
                    &length);
        if (length == static_cast<int>(lines[static_cast<std::size_t>(i)].size()))
            seen.push_back(number);
    }
    std::sort(seen.begin(), seen.end());
    CHECK(seen == test::numbers(kTasks));
}

}  // namespace progress_test

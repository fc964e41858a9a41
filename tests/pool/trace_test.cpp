// Trace files: what is in them, read back by Python.
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/exit_hooks.hpp>
#include <sidestep/process.hpp>
#include <sidestep/thread_pool.hpp>

#include "pool_support.hpp"

namespace trace_test {

namespace mp = sidestep;
using test::methods;
using namespace std::chrono_literals;

namespace {

int refuse(int x) { throw std::domain_error("refused " + std::to_string(x)); }
int die_at(int x) { return x == 17 ? test::die(SIGKILL) : x; }
int hang() {
    for (;;) pause();
}

// Its name has a character that JSON has another use for.
template <char>
struct Marked {
    int value = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(value);
    }
};

// A folder for trace files, while it lives.
class Folder {
  public:
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "trace-XXXXXX").string();
        if (!mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
        path_ = name;
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::string file(const std::string& name) const { return (path_ / name).string(); }

  private:
    std::filesystem::path path_;
};

// What Python makes of the file: `expression` over the list of events, `tasks` and `instants`.
std::string python(const std::string& file, const std::string& expression) {
    std::string program =
        "import json\n"
        "events = json.load(open(\"" +
        file +
        "\"))\n"
        "tasks = [e for e in events if e[\"ph\"] == \"X\"]\n"
        "instants = [e for e in events if e[\"ph\"] == \"i\"]\n"
        "print(" +
        expression + ", end=\"\")\n";
    std::string command = "/usr/bin/python3 -c '" + program + "' 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) throw std::runtime_error("popen");
    std::string text;
    char part[4096];
    for (std::size_t n; (n = fread(part, 1, sizeof part, pipe)) > 0;) text.append(part, n);
    pclose(pipe);
    return text;
}

}  // namespace

TEST_CASE("each task is an event with its name, number, time and track", "[pool][trace]") {
    auto method = GENERATE(from_range(methods()));
    Folder folder;
    std::string file = folder.file("t.json");
    {
        mp::Pool pool({.processes = 2, .start_method = method});
        pool.trace(file);
        std::vector<mp::Future<int>> futures;
        for (int i = 0; i < 100; ++i) futures.push_back(pool.submit(test::add, i, 1));
        for (auto& f : futures) f.get();
        CHECK_THROWS_AS(pool.apply(refuse, 1), std::domain_error);
    }
    CHECK(python(file, "len(tasks)") == "101");
    CHECK(python(file, "sorted(t[\"args\"][\"task\"] for t in tasks) == list(range(1, 102))") ==
          "True");
    CHECK(python(file, "{t[\"name\"] for t in tasks if not t[\"args\"][\"failed\"]}") ==
          "{'test::add(int, int)'}");
    CHECK(python(file, "[t[\"args\"][\"outcome\"] for t in tasks if t[\"args\"][\"failed\"]]") ==
          "['error']");
    CHECK(python(file, "{t[\"pid\"] for t in tasks}") == "{" + std::to_string(getpid()) + "}");
    CHECK(python(file, "{t[\"tid\"] for t in tasks} <= {0, 1}") == "True");
    CHECK(python(file, "all(t[\"ts\"] > 0 and t[\"dur\"] >= 0 for t in tasks)") == "True");
    CHECK(python(file,
                 "{e[\"args\"][\"name\"] for e in events if e[\"name\"] == \"thread_name\"}"
                 " <= {\"worker 0\", \"worker 1\"}") == "True");
    CHECK_THAT(python(file, "[e for e in events if e[\"name\"] == \"process_name\"]"),
               Catch::Contains("sidestep pool of process " + std::to_string(getpid())));
    // Both left when the pool ended; nobody died.
    CHECK(python(file, "[i[\"name\"] for i in instants]") == "['worker left', 'worker left']");
}

TEST_CASE("the tasks of one worker do not overlap in a trace", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    mp::Pool pool({.processes = 2});
    pool.trace(file);
    for (int round = 0; round < 20; ++round) pool.map(test::square, std::vector<long>(100, 3));
    pool.trace_stop();
    CHECK(python(file,
                 "all(round(a[\"ts\"] * 1000) + round(a[\"dur\"] * 1000) <= "
                 "round(b[\"ts\"] * 1000) + 1000 for w in (0, 1) for own in [sorted("
                 "(t for t in tasks if t[\"tid\"] == w), key=lambda t: t[\"ts\"])] "
                 "for a, b in zip(own, own[1:]))") == "True");
    CHECK(python(file, "sum(t[\"args\"][\"items\"] for t in tasks)") == "2000");
}

TEST_CASE("a worker's death, its successor and the lost task are in the trace", "[pool][trace]") {
    auto method = GENERATE(from_range(methods()));
    Folder folder;
    std::string file = folder.file("t.json");
    mp::Pool pool({.processes = 1, .start_method = method});
    pool.trace(file);
    CHECK_THROWS_AS(pool.apply(test::die, SIGKILL), mp::WorkerLost);
    CHECK(pool.apply(test::add, 1, 2) == 3);
    pool.trace_stop();
    CHECK(python(file, "[i[\"name\"] for i in instants]") ==
          "['worker died of signal 9 (SIGKILL)', 'worker started']");
    CHECK(python(file, "[(t[\"name\"], t[\"args\"][\"outcome\"]) for t in tasks]") ==
          "[('test::die(int)', 'crash'), ('test::add(int, int)', 'value')]");
    CHECK(python(file, "tasks[0][\"args\"][\"process\"] != tasks[1][\"args\"][\"process\"]") ==
          "True");
}

TEST_CASE("retries, a timeout and the parts of a chunk are events of their own", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    mp::Pool pool({.processes = 1});
    pool.trace(file);
    CHECK_THROWS_AS(pool.submit({.retry = {.max_attempts = 2}}, refuse, 1).get(),
                    std::domain_error);
    CHECK_THROWS_AS(pool.submit({.timeout = 10ms}, hang).get(), mp::TaskTimeout);
    CHECK_THROWS_AS(pool.map(die_at, test::numbers(20), {.chunksize = 20}), mp::WorkerLost);
    pool.trace_stop();
    CHECK(python(file,
                 "[(t[\"args\"][\"task\"], t[\"args\"][\"attempt\"], "
                 "t[\"args\"][\"outcome\"], t[\"args\"].get(\"items\")) for t in tasks]") ==
          "[(1, 1, 'error', None), (1, 2, 'error', None), (2, 1, 'timeout', None), "
          "(3, 1, 'crash', 20), (4, 1, 'value', 2)]");
    CHECK(python(file, "tasks[4][\"args\"][\"first_item\"]") == "18");
    CHECK(python(file, "tasks[2][\"dur\"] >= 10000") == "True");
}

TEST_CASE("a trace ends with trace_stop() or the next one, and the file is complete then",
          "[pool][trace]") {
    Folder folder;
    mp::Pool pool({.processes = 1});
    pool.trace_stop();  // there is none
    pool.apply(test::add, 0, 0);
    pool.trace(folder.file("a.json"));
    pool.apply(test::add, 1, 1);
    pool.trace(folder.file("b.json"));
    pool.apply(test::square, 1L);
    CHECK(python(folder.file("a.json"), "[t[\"name\"] for t in tasks]") ==
          "['test::add(int, int)']");
    pool.trace(folder.file("b.json"));  // the same: anew
    pool.apply(test::add, 1, 1);
    pool.trace_stop();
    pool.apply(test::square, 1L);
    CHECK(python(folder.file("b.json"), "[t[\"name\"] for t in tasks]") ==
          "['test::add(int, int)']");
    pool.trace(folder.file("empty.json"));
    pool.trace_stop();
    CHECK(python(folder.file("empty.json"), "len(tasks)") == "0");
}

TEST_CASE("a trace of global() is complete when the program has ended", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    mp::Process program(
        [](const std::string& path) {
            mp::Pool::global().trace(path);
            mp::at_exit([] { mp::Pool::global().apply(test::add, 1, 2); });
            mp::Pool::global().apply(test::add, 3, 4);
        },
        file);
    program.start();
    program.join();
    CHECK(program.exitcode() == 0);
    CHECK(python(file, "len(tasks)") == "2");
}

TEST_CASE("names that JSON cannot have as they are are escaped", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    mp::Pool pool({.processes = 1});
    pool.trace(file);
    CHECK(pool.apply([](const Marked<'"'>& marked) { return marked.value; }, Marked<'"'>{7}) == 7);
    pool.trace_stop();
    CHECK_THAT(python(file, "tasks[0][\"name\"]"), Catch::Contains("\"'>"));
}

TEST_CASE("more events than one buffer holds come through", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    mp::Pool pool({.processes = 2});
    pool.trace(file);
    constexpr int kTasks = 20'000;
    std::vector<mp::Future<int>> futures;
    for (int i = 0; i < kTasks; ++i) futures.push_back(pool.submit(test::add, i, 1));
    for (auto& f : futures) f.get();
    pool.trace_stop();
    CHECK(python(file, "len({t[\"args\"][\"task\"] for t in tasks})") == std::to_string(kTasks));
}

TEST_CASE("events that come faster than the file can be written are left out, and counted",
          "[pool][trace]") {
    Folder folder;
    std::string slow = folder.file("fifo"), file = folder.file("t.json");
    REQUIRE(mkfifo(slow.c_str(), 0600) == 0);
    // A pipe that nobody reads is a disk that is full of work.
    int fifo = open(slow.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    REQUIRE(fifo >= 0);
    auto is_full = [&] {
        int held = 0;
        return ioctl(fifo, FIONREAD, &held) == 0 && held > 60'000;
    };
    constexpr int kFill = 5'000, kMore = 140'000;
    std::thread reader;
    {
        mp::ThreadPool pool({.threads = 1});
        pool.trace(slow);
        auto run = [&](int tasks) {
            std::vector<mp::Future<int>> futures;
            for (int i = 0; i < tasks; ++i) futures.push_back(pool.submit(test::add, i, 1));
            for (auto& f : futures) f.get();
        };
        run(kFill);
        CHECK(test::eventually(is_full));
        run(kMore);
        pool.close();
        reader = std::thread([&] { std::ofstream(file) << std::ifstream(slow).rdbuf(); });
        pool.join();
    }
    reader.join();
    close(fifo);
    CHECK(python(file, "(lambda dropped: dropped > 0 and dropped + len(tasks) == " +
                           std::to_string(kFill + kMore) +
                           ")(sum(int(i[\"name\"].split()[0]) for i in instants))") == "True");
}

TEST_CASE("a running trace can be looked at before it ends", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    mp::Pool pool({.processes = 1});
    pool.trace(file);
    pool.apply(test::add, 1, 1);
    CHECK(test::eventually([&] {
        std::ifstream in(file);
        std::string text((std::istreambuf_iterator<char>(in)), {});
        return text.find("test::add(int, int)") != std::string::npos && text.front() == '[' &&
               text.back() == '}';
    }));
}

TEST_CASE("a pool without workers has a track for each thread that submits", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    {
        mp::Pool pool({.processes = 0});
        pool.trace(file);
        pool.apply(test::add, 1, 1);
        CHECK_THROWS_AS(pool.apply(refuse, 1), std::domain_error);
    }
    CHECK(python(file, "[(t[\"args\"][\"outcome\"], t[\"tid\"]) for t in tasks]") ==
          "[('value', " + std::to_string(gettid()) + "), ('error', " + std::to_string(gettid()) +
              ")]");
}

TEST_CASE("a pool of threads is traced too", "[pool][trace]") {
    Folder folder;
    std::string file = folder.file("t.json");
    mp::ThreadPool pool({.threads = 2});
    pool.trace(file);
    CHECK(pool.apply(test::add, 1, 2) == 3);
    CHECK_THROWS_AS(pool.submit({.retry = {.max_attempts = 2}}, refuse, 1).get(),
                    std::domain_error);
    auto late = pool.submit({.timeout = 10ms}, [] {
        return test::eventually([] { return mp::this_task::stop_requested(); });
    });
    CHECK_THROWS_AS(late.get(), mp::TaskTimeout);
    pool.close();
    pool.join();
    CHECK(python(file,
                 "sorted((t[\"args\"][\"task\"], t[\"args\"][\"attempt\"], "
                 "t[\"args\"][\"outcome\"]) for t in tasks)") ==
          "[(1, 1, 'value'), (2, 2, 'error'), (3, 1, 'timeout')]");
    CHECK(python(file,
                 "{e[\"args\"][\"name\"] for e in events if e[\"name\"] == \"thread_name\"}"
                 " <= {\"thread 0\", \"thread 1\"}") == "True");
    CHECK_THROWS_AS(pool.trace(file), std::logic_error);
}

TEST_CASE("a trace that cannot be written says why, by its path", "[pool][trace]") {
    Folder folder;
    mp::Pool pool({.processes = 1});
    try {
        pool.trace(folder.file("no/such/folder"));
        FAIL("it was opened");
    } catch (const std::system_error& error) {
        CHECK(error.code().value() == ENOENT);
        CHECK_THAT(error.what(), Catch::Contains("no/such/folder"));
    }
    CHECK_THROWS_AS(pool.trace(""), std::system_error);
    pool.trace("/dev/full");
    pool.apply(test::add, 1, 1);
    try {
        pool.trace_stop();
        FAIL("it was written");
    } catch (const std::system_error& error) {
        CHECK(error.code().value() == ENOSPC);
        CHECK_THAT(error.what(), Catch::Contains("/dev/full"));
    }
    CHECK(pool.apply(test::add, 1, 1) == 2);
}

TEST_CASE("a pool that has ended, or is a forked copy, cannot be traced", "[pool][trace]") {
    Folder folder;
    mp::Pool pool({.processes = 1});
    pid_t child = fork();
    if (child == 0) {
        try {
            pool.trace(folder.file("t.json"));
            _exit(1);
        } catch (const std::logic_error&) {
            _exit(0);
        }
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    pool.close();
    pool.join();
    CHECK_THROWS_AS(pool.trace(folder.file("t.json")), std::logic_error);
}

}  // namespace trace_test

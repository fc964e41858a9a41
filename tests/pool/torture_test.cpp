// Random deaths, stops and cancellations, with an oracle in shared memory: every task that has a
// result ran exactly once, at most one task is lost with each death, and what was cancelled, or
// taken back from a worker, had not begun.
//
// TORTURE_SEED repeats a run; TORTURE_KILLS makes it long (the suite `stress` does).
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <random>
#include <thread>

#include <catch2/catch.hpp>

#include "pool_support.hpp"

namespace torture_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kBatch = 500;
// Words of the oracle: for each task how often it began, how often it ended; and a total. Each
// batch has words of its own, which are used again when kSets later ones are through: a task that
// was cancelled while it ran may be at it still when its batch is accounted for, until its worker
// is killed.
constexpr std::size_t kSets = 32, kBegan = 0, kEnded = kSets * kBatch, kTotal = 2 * kSets * kBatch,
                      kWords = kTotal + 1;

std::string fill(std::size_t index, std::size_t size) {
    return std::string(size, static_cast<char>('a' + index % 26));
}
std::string task(const std::string& path, std::size_t index, const std::string& argument,
                 unsigned spin_us, std::size_t size) {
    test::SharedWords::Word* words = test::SharedWords::attach(path);
    ++words[kBegan + index];
    auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
    while (std::chrono::steady_clock::now() < end) {
    }
    ++words[kTotal];
    ++words[kEnded + index];
    if (spin_us % 16 == 7) throw std::domain_error(fill(index, argument.size() % 100));
    return fill(index, size) + argument;
}

unsigned from_environment(const char* name, unsigned otherwise) {
    const char* text = std::getenv(name);
    return text ? static_cast<unsigned>(std::strtoul(text, nullptr, 10)) : otherwise;
}

// Signals a worker without a race on its pid: a pid may have been given to somebody else since it
// was listed, but the descriptor stays with the process, and only ours are our children.
bool signal_child(int pid, int signal) {
    int pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfd < 0) return false;
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(file, text);
    int parent = 0;
    std::size_t end = text.rfind(')');
    bool ours = end != std::string::npos &&
                sscanf(text.c_str() + end + 1, " %*c %d", &parent) == 1 && parent == getpid();
    bool sent = ours && syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0;
    close(pidfd);
    return sent;
}

// Kills random workers, and stops some for a moment. Between two kills a task has ended, or the
// pool would rightly take it for a crash loop.
class Killer {
  public:
    Killer(mp::Pool& pool, test::SharedWords& words, unsigned seed, unsigned kills)
        : pool_(pool), words_(words), random_(seed), wanted_(kills), thread_([this] { run(); }) {}
    ~Killer() {
        leave_ = true;
        thread_.join();
    }
    unsigned kills() const { return kills_; }
    bool done() const { return kills_ >= wanted_; }

  private:
    void run() {
        while (!leave_ && !done()) {
            auto pause = std::chrono::microseconds(random_() % 1500);
            auto until = std::chrono::steady_clock::now() + pause;
            std::uint64_t seen = words_[kTotal];
            while (!leave_ &&
                   (std::chrono::steady_clock::now() < until || words_[kTotal] == seen)) {
                // It may be a stopped worker's task that everybody waits for.
                if (std::chrono::steady_clock::now() > until + 3ms && !stopped_.empty()) go_on();
                std::this_thread::yield();
            }
            std::vector<int> pids = pool_.worker_pids();
            if (pids.empty()) continue;
            int pid = pids[random_() % pids.size()];
            if (random_() % 8 == 0) {
                if (signal_child(pid, SIGSTOP)) stopped_.push_back(pid);
            } else if (signal_child(pid, SIGKILL)) {
                ++kills_;
            }
            if (stopped_.size() > random_() % 3) go_on();
        }
        while (!stopped_.empty()) go_on();
    }
    void go_on() {
        (void)signal_child(stopped_.front(), SIGCONT);
        stopped_.erase(stopped_.begin());
    }

    mp::Pool& pool_;
    test::SharedWords& words_;
    std::mt19937 random_;
    unsigned wanted_;
    std::atomic<unsigned> kills_{0};
    std::atomic<bool> leave_{false};
    std::vector<int> stopped_;
    std::thread thread_;
};

struct Tally {
    std::uint64_t finished = 0, failed = 0, lost = 0, cancelled = 0, batches = 0;
};

struct Submitted {
    mp::Future<std::string> future;
    std::size_t argument = 0, size = 0;
    bool cancelled = false;
};

// What became of a task agrees with the oracle.
void check(Submitted& s, std::size_t i, test::SharedWords& words, Tally& tally) {
    if (!s.future.wait_for(test::kPatience)) throw std::runtime_error("a task hangs");
    std::uint64_t ended = words[kEnded + i], began = words[kBegan + i];  // this one comes first
    bool right = false;
    try {
        std::string text = s.future.get();
        ++tally.finished;
        right = began == 1 && ended == 1 && text == fill(i, s.size) + fill(i + 1, s.argument);
    } catch (const std::domain_error& error) {
        ++tally.failed;
        right = began == 1 && ended == 1 && error.what() == fill(i, s.argument % 100);
    } catch (const mp::WorkerLost&) {
        ++tally.lost;
        right = began <= 1 && ended <= began;
    } catch (const mp::CancelledError&) {
        ++tally.cancelled;
        right = s.cancelled && began <= 1 && ended <= began;
    }
    if (!right) {
        CAPTURE(i, began, ended, s.cancelled);
        FAIL("the task's outcome and the oracle do not agree");
    }
}

void batch(mp::Pool& pool, test::SharedWords& words, std::mt19937& random, Tally& tally) {
    std::size_t first = tally.batches++ % kSets * kBatch;
    for (std::size_t i = first; i < first + kBatch; ++i) words[kBegan + i] = words[kEnded + i] = 0;
    std::vector<Submitted> tasks(kBatch);
    bool large = random() % 4 == 0;
    unsigned longest = std::vector<unsigned>{1, 20, 300}[random() % 3];
    for (std::size_t i = 0; i < kBatch; ++i) {
        Submitted& s = tasks[i];
        s.argument = large ? random() % 50'000 : random() % 200;
        s.size = large ? random() % 50'000 : random() % 200;
        s.future = pool.submit(task, words.path(), first + i, fill(first + i + 1, s.argument),
                               static_cast<unsigned>(random() % (longest + 1)), s.size);
        if (random() % 16 == 0) {
            Submitted& victim = tasks[random() % (i + 1)];
            victim.cancelled = victim.future.cancel();
        }
        if (random() % 64 == 0) tasks[random() % (i + 1)].future.wait();
    }
    for (std::size_t i = 0; i < kBatch; ++i) check(tasks[i], first + i, words, tally);
}

}  // namespace

TEST_CASE("workers die at random, and every task is accounted for", "[pool][torture]") {
    auto method = GENERATE(from_range(test::methods()));
    unsigned seed = from_environment("TORTURE_SEED", std::random_device()());
    unsigned kills = from_environment("TORTURE_KILLS", 200);
    std::printf("TORTURE_SEED=%u TORTURE_KILLS=%u %s\n", seed, kills,
                test::name_of(method).c_str());
    std::fflush(stdout);
    std::mt19937 random(seed);
    test::SharedWords words(kWords);
    Tally tally;
    mp::Pool pool({.processes = 3, .start_method = method});
    {
        Killer killer(pool, words, seed + 1, kills);
        while (!killer.done()) batch(pool, words, random, tally);
        CHECK(tally.lost <= killer.kills());
        std::printf("%u kills: %lu finished, %lu failed, %lu lost, %lu cancelled\n", killer.kills(),
                    tally.finished, tally.failed, tally.lost, tally.cancelled);
    }
    batch(pool, words, random, tally);
    CHECK(tally.finished > 0);
    pool.close();
    pool.join();
}

TEST_CASE("workers die at random, and every item of a stream has its outcome", "[pool][torture]") {
    auto method = GENERATE(from_range(test::methods()));
    unsigned seed = from_environment("TORTURE_SEED", std::random_device()());
    unsigned kills = from_environment("TORTURE_KILLS", 200) / 4;
    std::printf("TORTURE_SEED=%u (streams, %s)\n", seed, test::name_of(method).c_str());
    std::fflush(stdout);
    std::mt19937 random(seed);
    test::SharedWords words(kWords);
    mp::Pool pool({.processes = 3, .start_method = method});
    Killer killer(pool, words, seed + 1, kills);
    auto run = mp::bind(
        [](const std::string& path, int x) {
            ++test::SharedWords::attach(path)[kTotal];
            return 3 * x;
        },
        words.path());
    while (!killer.done()) {
        constexpr int kItems = 20'000;
        std::vector<bool> seen(kItems);
        auto look = [&](auto outcomes) {
            for (const auto& item : outcomes) {
                if (seen[item.index()]) FAIL("an item came twice");
                seen[item.index()] = true;
                if (item) {
                    if (item.value() != 3 * static_cast<int>(item.index())) FAIL("a wrong value");
                } else {
                    CHECK_THROWS_AS(item.value(), mp::WorkerLost);
                }
            }
            if (std::find(seen.begin(), seen.end(), false) != seen.end())
                FAIL("an item is missing");
        };
        mp::MapOptions options{.chunksize = random() % 50, .window = random() % 2 ? 500u : 0u};
        if (random() % 2)
            look(pool.imap(run, test::numbers(0, kItems), options).outcomes());
        else
            look(pool.imap_unordered(run, test::numbers(0, kItems), options).outcomes());
    }
}

}  // namespace torture_test

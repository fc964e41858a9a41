// Runs a command for each line of the input, on all cores: an xargs -P whose output stays whole and
// in order, with progress on a terminal, a log of the jobs, a summary of those that failed, and an
// exit status that tells.
//
//   ls *.png | parallel -l jobs.tsv convert {} -resize 50% small/{}
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/progress.hpp>
#include <sidestep/subprocess.hpp>

#include "running.hpp"

namespace sp = sidestep::subprocess;
using Clock = std::chrono::system_clock;
using Seconds = std::chrono::duration<double>;

namespace {

constexpr int kBad = 255;
constexpr std::size_t kMostTold = 10;  // of the jobs that failed
constexpr const char* kUsage =
    R"(usage: parallel [-j JOBS] [-l LOG] [-t SECONDS] COMMAND [WORD]...
       parallel --help
  Runs COMMAND for each line of the input, JOBS at a time (as many as there are CPUs); their output
  comes in the order of the lines. A terminal shows how far it is; the end says what failed.
  {} in a word is the line; without any {}, the line is the last word. No shell is between: a line
  with blanks or quotes is one word. A job that runs longer than SECONDS is killed, and all its
  descendants; so are all jobs when parallel is ended by a signal.
  LOG gets a table, its columns separated by tabs. In the column of the command, \t, \n and \\ are
  a tab, a newline and a backslash.
Exit status: the number of jobs that failed (100: that many or more); 255: bad usage, or the input,
the output or LOG failed.
)";

struct Settings {
    std::size_t slots = std::max(1u, std::thread::hardware_concurrency());
    std::string log;
    std::optional<sidestep::Timeout> timeout;
    std::vector<std::string> words;
};

struct Job {
    std::string command;
    sp::Output output;
    sidestep::ExitStatus status;
    std::string trouble;  // why it has no exit status
    Clock::time_point begin;
    double seconds = 0;
    bool failed() const { return !trouble.empty() || !status.success(); }
    std::string end() const { return trouble.empty() ? status.describe() : trouble; }
};

std::string one_column(const std::string& text) {
    std::string escaped;
    for (char c : text) {
        if (c == '\t')
            escaped += "\\t";
        else if (c == '\n')
            escaped += "\\n";
        else if (c == '\\')
            escaped += "\\\\";
        else
            escaped += c;
    }
    return escaped;
}

class Runner {
  public:
    explicit Runner(Settings settings) : settings_(std::move(settings)) {
        auto has_mark = [](const std::string& word) { return word.find("{}") != word.npos; };
        if (std::ranges::none_of(settings_.words, has_mark)) settings_.words.push_back("{}");
        if (settings_.log.empty()) return;
        log_.open(settings_.log);
        log_ << "job\tstart\tseconds\texit\tsignal\tcommand\n" << std::flush;
        if (!log_) throw std::runtime_error("cannot write the log " + settings_.log);
    }

    int run() {
        SignalGuard guard(running_);
        std::vector<std::thread> threads = start_threads();
        run_jobs();
        for (std::thread& thread : threads) thread.join();
        meter_.finish();
        summarize();
        if (std::cin.bad()) broken("cannot read the input");
        return broken_ ? kBad : static_cast<int>(std::min<std::size_t>(failed_, 100));
    }

  private:
    // One less than there are slots: the calling thread has a slot, too. If the system has no room
    // for them, half of those that it had room for end, and leave theirs to the jobs.
    std::vector<std::thread> start_threads() {
        std::vector<std::thread> threads;
        try {
            for (std::size_t slot = 1; slot < settings_.slots; ++slot)
                threads.emplace_back([this, slot] {
                    if (gets_slot(slot)) run_jobs();
                });
        } catch (const std::exception& e) {
            std::size_t kept = threads.size() / 2;
            std::cerr << "parallel: only " << kept + 1 << " jobs at a time: " << e.what() << '\n';
            set_slots(kept + 1, false);
            for (std::size_t i = kept; i < threads.size(); ++i) threads[i].join();
            threads.resize(kept);
        }
        set_slots(threads.size() + 1, true);
        return threads;
    }

    void set_slots(std::size_t slots, bool begin) {
        std::lock_guard lock(start_);
        settings_.slots = slots;
        begun_ = begin;
        changed_.notify_all();
    }

    // Waits for the beginning; false if there will be none.
    bool gets_slot(std::size_t slot) {
        std::unique_lock lock(start_);
        changed_.wait(lock, [&] { return begun_ || slot >= settings_.slots; });
        return slot < settings_.slots;
    }

    void run_jobs() {
        std::string line;
        for (std::size_t number; next_line(line, number);) finish(number, run_one(line));
    }

    bool next_line(std::string& line, std::size_t& number) {
        std::lock_guard lock(input_);
        number = taken_;
        return !broken_ && std::getline(std::cin, line) && ++taken_;
    }

    std::vector<std::string> command_for(const std::string& line) const {
        std::vector<std::string> words = settings_.words;
        for (std::string& word : words)
            for (std::size_t at = 0; (at = word.find("{}", at)) != word.npos; at += line.size())
                word.replace(at, 2, line);
        return words;
    }

    Job run_one(const std::string& line) {
        sp::Args args(command_for(line));
        Job job;
        job.command = args.describe();
        job.begin = Clock::now();
        try {
            talk_to(args, job);
        } catch (const sp::TimeoutExpired& e) {
            job.output = {e.output(), e.std_err()};
            job.trouble = e.what();
        } catch (const std::exception& e) {
            job.trouble = e.what();
        }
        job.seconds = Seconds(Clock::now() - job.begin).count();
        return job;
    }

    void talk_to(const sp::Args& args, Job& job) {
        Running::Entry running(running_, args,
                               {.std_in = sp::DEVNULL,
                                .std_out = sp::PIPE,
                                .std_err = sp::PIPE,
                                .blocked_signals = std::vector<int>(),
                                .die_with_parent = true,  // should we be killed with SIGKILL
                                .kill_tree = true,
                                .on_destroy = sp::OnDestroy::kill});
        job.output = running.job.communicate({}, settings_.timeout);
        job.status = running.job.exit_status();
    }

    // Jobs end in any order; what they said comes out in the order of the lines.
    void finish(std::size_t number, Job job) {
        std::lock_guard lock(output_);
        ended_.emplace(number, std::move(job));
        for (auto it = ended_.begin(); it != ended_.end() && it->first == told_;
             it = ended_.erase(it), ++told_)
            tell(it->first, it->second);
    }

    void tell(std::size_t number, const Job& job) {
        if (broken_) return;
        if (job.failed() && ++failed_ <= kMostTold)
            failures_ += fmt::format("  line {}: {}: {}\n", number + 1, job.command, job.end());
        meter_.print_above([&] {
            print(std::cerr, job.output.std_err);
            if (!job.trouble.empty()) std::cerr << "parallel: " << job.trouble << '\n';
            if (!print(std::cout, job.output.std_out)) broken("cannot write the output");
        });
        meter_.update(told_ + 1, failed_);
        if (!log_.is_open()) return;
        int code = job.trouble.empty() ? job.status.code() : -1;
        log_ << fmt::format("{}\t{:.3f}\t{:.3f}\t{}\t{}\t{}\n", number + 1,
                            Seconds(job.begin.time_since_epoch()).count(), job.seconds, code,
                            job.status.signal(), one_column(job.command))
             << std::flush;
        if (!log_) broken("cannot write the log " + settings_.log);
    }

    // The bar comes below whole lines.
    bool print(std::ostream& to, const std::string& text) const {
        to << text;
        if (shows_progress_ && !text.empty() && text.back() != '\n') to << '\n';
        return static_cast<bool>(to << std::flush);
    }

    void summarize() const {
        if (failed_ == 0) return;
        std::cerr << fmt::format("parallel: {} of {} jobs failed{}\n{}", failed_, told_,
                                 failed_ > kMostTold ? "; the first of them:" : ":", failures_);
    }

    // What is lost would be lost for the jobs to come, too.
    void broken(const std::string& what) {
        std::cerr << "parallel: " << what << '\n';
        broken_ = true;
        running_.kill_all();
    }

    Settings settings_;
    Running running_;
    std::atomic<bool> broken_ = false;
    std::mutex start_;
    std::condition_variable changed_;
    bool begun_ = false;
    std::mutex input_;
    std::size_t taken_ = 0;
    std::mutex output_;
    std::map<std::size_t, Job> ended_;
    std::size_t told_ = 0;
    std::size_t failed_ = 0;
    std::string failures_;
    const bool shows_progress_ = isatty(STDERR_FILENO) != 0;
    sidestep::ProgressMeter meter_{{.label = "jobs", .quiet = !shows_progress_}};
    std::ofstream log_;
};

template <class Number>
Number parse(char option, const char* text, Number least, Number most) {
    Number number{};
    const char* end = text + std::strlen(text);
    auto [rest, error] = std::from_chars(text, end, number);
    if (error != std::errc() || rest != end || !(number >= least && number <= most))
        throw std::invalid_argument(
            fmt::format("-{} {}: not a number from {} to {}", option, text, least, most));
    return number;
}

Settings parse_options(int argc, char** argv) {
    Settings settings;
    for (int option; (option = getopt(argc, argv, "+j:l:t:")) != -1;) {
        if (option == 'j') settings.slots = parse<std::size_t>('j', optarg, 1, 1'000'000);
        if (option == 'l') settings.log = optarg;
        if (option == 't') settings.timeout = Seconds(parse('t', optarg, 1e-3, 1e9));
        if (option == '?') throw std::invalid_argument("bad option");
    }
    settings.words.assign(argv + optind, argv + argc);
    if (settings.words.empty()) throw std::invalid_argument("no COMMAND");
    return settings;
}

}  // namespace

int main(int argc, char** argv) {
    std::signal(SIGPIPE, SIG_IGN);  // an output that nobody reads is an error like others
    std::ios::sync_with_stdio(false);
    std::cin.tie(nullptr);  // or a thread that reads would flush what another one writes
    if (argc == 2 && (std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h")) {
        std::cout << kUsage;
        return std::cout.flush() ? 0 : kBad;
    }
    try {
        return Runner(parse_options(argc, argv)).run();
    } catch (const std::invalid_argument& e) {
        std::cerr << "parallel: " << e.what() << '\n' << kUsage;
    } catch (const std::exception& e) {
        std::cerr << "parallel: " << e.what() << '\n';
    }
    return kBad;
}

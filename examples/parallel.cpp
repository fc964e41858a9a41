// Runs a command for each line of the input, on all cores: an xargs -P whose output stays whole and
// in order, with a log of the jobs and an exit status that tells.
//
//   ls *.png | parallel -l jobs.tsv convert {} -resize 50% small/{}
//
// usage: parallel [-j JOBS] [-l LOG] [-t SECONDS] COMMAND [WORD]...
//   {} in a word is the line; without any {}, the line is the last word. No shell is between: a
//   line with blanks or quotes is one word. A job that runs longer than SECONDS is killed, and all
//   its descendants.
// Exit status: the number of jobs that failed (100: that many or more); 255: bad usage.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>
#include <thread>

#include <sidestep/subprocess.hpp>

namespace sp = sidestep::subprocess;
using Clock = std::chrono::system_clock;

namespace {

struct Job {
    std::string command;
    sp::CompletedProcess done = {.args = ""};
    std::string trouble;  // why it has no exit status
    Clock::time_point begin;
    double seconds = 0;
    bool failed() const { return !trouble.empty() || done.returncode != 0; }
};

class Runner {
  public:
    Runner(std::vector<std::string> words, sp::Options options, const std::string& log)
        : words_(std::move(words)), options_(std::move(options)) {
        std::size_t marks = 0;
        for (const std::string& word : words_) marks += word.find("{}") != std::string::npos;
        if (marks == 0) words_.push_back("{}");
        if (!log.empty()) log_.open(log);
        log_ << "job\tstart\tseconds\texit\tsignal\tcommand\n";
    }

    int run(std::size_t slots) {
        std::vector<std::thread> threads;
        for (std::size_t i = 0; i < slots; ++i) threads.emplace_back([this] { run_jobs(); });
        for (std::thread& thread : threads) thread.join();
        return static_cast<int>(std::min<std::size_t>(failed_, 100));
    }

  private:
    void run_jobs() {
        std::string line;
        for (std::size_t number; next_line(line, number);) finish(number, run_one(line));
    }

    bool next_line(std::string& line, std::size_t& number) {
        std::lock_guard lock(input_);
        number = taken_;
        return std::getline(std::cin, line) && ++taken_;
    }

    Job run_one(const std::string& line) const {
        std::vector<std::string> words = words_;
        for (std::string& word : words)
            for (std::size_t at = 0; (at = word.find("{}", at)) != std::string::npos;
                 at += line.size())
                word.replace(at, 2, line);
        Job job{.command = sp::Args(words).describe(), .trouble = {}, .begin = Clock::now()};
        try {
            job.done = sp::run(words, options_);
        } catch (const sp::TimeoutExpired& e) {
            job.done.std_out = e.output();
            job.done.std_err = e.std_err();
            job.trouble = e.what();
        } catch (const std::exception& e) {
            job.trouble = e.what();
        }
        job.seconds = std::chrono::duration<double>(Clock::now() - job.begin).count();
        return job;
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
        std::cout << job.done.std_out << std::flush;
        std::cerr << job.done.std_err;
        if (!job.trouble.empty()) std::cerr << "parallel: " << job.trouble << '\n';
        failed_ += job.failed();
        int code = job.trouble.empty() ? job.done.status.code() : -1;
        if (log_.is_open())
            log_ << fmt::format("{}\t{:.3f}\t{:.3f}\t{}\t{}\t{}\n", number + 1,
                                std::chrono::duration<double>(job.begin.time_since_epoch()).count(),
                                job.seconds, code, job.done.status.signal(), job.command);
    }

    std::vector<std::string> words_;
    sp::Options options_;
    std::mutex input_;
    std::size_t taken_ = 0;
    std::mutex output_;
    std::map<std::size_t, Job> ended_;
    std::size_t told_ = 0;
    std::size_t failed_ = 0;
    std::ofstream log_;
};

}  // namespace

int main(int argc, char** argv) {
    std::size_t slots = std::max(1u, std::thread::hardware_concurrency());
    std::string log;
    sp::Options options = {.capture_output = true, .std_in = sp::DEVNULL};
    for (int option; (option = getopt(argc, argv, "+j:l:t:")) != -1;) {
        if (option == 'j') slots = std::max(1ul, std::strtoul(optarg, nullptr, 10));
        if (option == 'l') log = optarg;
        if (option == 't')
            options.timeout = std::chrono::milliseconds(std::llround(1e3 * std::atof(optarg)));
        if (option == '?') return 255;
    }
    if (optind == argc) {
        std::cerr << "usage: parallel [-j JOBS] [-l LOG] [-t SECONDS] COMMAND [WORD]...\n";
        return 255;
    }
    std::ios::sync_with_stdio(false);
    std::cin.tie(nullptr);  // or a thread that reads would flush what another one writes
    return Runner({argv + optind, argv + argc}, options, log).run(slots);
}

// A job server with its workers on other hosts. Jobs are shell commands; all have JOB_KEY.
//
//     job_server serve SERVER PORT              at this address of the server's host
//     job_server work SERVER PORT HOST JOBS     a worker's host, its address, how many at a time
//     job_server ask SERVER PORT COMMAND...     prints what they print, in this order
//
// A host that is lost in the middle of a job costs that job's time: another one runs it again. A
// client that was cut off or killed asks again; a job that is known by its text is not run again.
#include <sidestep/manager.hpp>
#include <sidestep/pool_proxy.hpp>
#include <sidestep/subprocess.hpp>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
namespace mp = sidestep;
using namespace std::chrono_literals;

std::string key() {
    if (const char* key = std::getenv("JOB_KEY")) return key;
    throw std::runtime_error("set JOB_KEY: what all hosts know, and nobody else");
}
mp::Manager connect(const mp::Address& to) {
    return mp::Manager::connect(to, {.authkey = key(), .timeout = 5s, .lost_after = 2s});
}
mp::ManagerServerOptions at(const mp::Address& here) {
    return {.address = here, .authkey = key(), .lost_after = 2s};
}
std::string run(std::string job) { return mp::subprocess::getoutput(job) + "\n"; }

class Board {
  public:
    void post(std::string job) {
        std::lock_guard lock(mutex_);
        if (results_.try_emplace(job).second) waiting_.insert(job), changed_.notify_one();
    }
    std::optional<std::string> result(std::string job) const {
        std::lock_guard lock(mutex_);
        return results_.at(job);
    }
    void join(mp::Address worker, unsigned jobs) {
        while (jobs-- > 0) std::thread(&Board::feed, this, worker).detach();
    }

  private:
    void feed(const mp::Address& worker) try {
        mp::Manager there = connect(worker);
        auto cores = there.get<mp::Pool>("cores");
        for (;;) {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [this] { return !waiting_.empty(); });
            auto job = waiting_.extract(waiting_.begin());
            lock.unlock();
            std::string result;
            try {
                result = cores.submit(run, job.value()).get();
            } catch (const mp::Disconnected&) {
                lock.lock();
                waiting_.insert(std::move(job)), changed_.notify_one();
                throw;
            } catch (const std::exception& e) {  // it cost its worker process, and nothing else
                result = std::string(e.what()) + "\n";
            }
            lock.lock();
            results_[job.value()] = result;
        }
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());  // the host comes back by join()
    }
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::set<std::string> waiting_;
    std::map<std::string, std::optional<std::string>> results_;  // of all that were posted
};

[[noreturn]] void work(const mp::Address& server, const char* host, unsigned jobs) {
    mp::ManagerServer here(at(mp::TcpAddress{host, 0}));
    here.expose<mp::Pool>("cores", jobs);
    here.start();
    for (;; std::this_thread::sleep_for(200ms)) try {
            auto board = connect(server).get<Board>("board");
            board.call<&Board::join>(here.address(), jobs);
            board.death().get();  // of the session: the server's end, or the network's
        } catch (const std::exception& e) {
            std::fprintf(stderr, "%s\n", e.what());
        }
}

void ask(const mp::Address& server, std::span<char*> jobs) {
    for (;; std::this_thread::sleep_for(200ms)) try {
            auto board = connect(server).get<Board>("board");
            for (const char* job : jobs) board.submit<&Board::post>(job);
            board.flush();
            std::string results;
            for (const char* job : jobs) {
                std::optional<std::string> result;
                while (!(result = board.call<&Board::result>(job)))
                    std::this_thread::sleep_for(100ms);
                results += *result;
            }
            return (void)std::fputs(results.c_str(), stdout);
        } catch (const std::system_error& e) {  // nobody is there, or the way there is cut
            std::fprintf(stderr, "%s\n", e.what());
        } catch (const mp::Disconnected& e) {
            std::fprintf(stderr, "%s\n", e.what());
        }
}

int main(int argc, char** argv) {
    mp::init();
    const std::string role = argc > 1 ? argv[1] : "";
    const bool enough = argc >= (role == "serve" ? 4 : role == "work" ? 6 : 5);
    if (!enough || (role != "serve" && role != "work" && role != "ask")) {
        std::fputs("job_server serve|work|ask SERVER PORT ...: see the source's head\n", stderr);
        return 2;
    }
    const mp::TcpAddress server{argv[2], std::uint16_t(std::atoi(argv[3]))};
    if (role == "work") work(server, argv[4], unsigned(std::atoi(argv[5])));
    if (role == "ask") return ask(server, {argv + 4, std::size_t(argc - 4)}), 0;
    mp::ManagerServer here(at(server));
    here.expose<&Board::post, &Board::result, &Board::join>("board", std::make_shared<Board>());
    here.serve();
}

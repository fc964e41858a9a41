// A service for programs on other machines: named objects, of which they may call what is exposed.
#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <sidestep/manager.hpp>
namespace mp = sidestep;
using namespace std::chrono_literals;

class JobBoard {
  public:
    void post(int job) { jobs_.push_back(job); }
    std::optional<int> take() {
        if (jobs_.empty()) return {};
        int job = jobs_.front();
        jobs_.pop_front();
        return job;
    }
    void done(int job, long result) { results_.emplace_back(job, result); }
    std::vector<std::pair<int, long>> results() const { return results_; }

  private:
    std::deque<int> jobs_;
    std::vector<std::pair<int, long>> results_;
};

// As it would stand in another program, built from the same headers.
void work_for(mp::Address address) {
    mp::Manager manager = mp::Manager::connect(address, {.authkey = "secret", .timeout = 5s});
    mp::Proxy<JobBoard> board = manager.get<JobBoard>("board");
    while (std::optional<int> job = board.call<&JobBoard::take>())
        board.call<&JobBoard::done>(*job, long(*job) * *job);
}

int main() {
    mp::init();

    mp::ManagerServer server({.address = mp::TcpAddress{"127.0.0.1", 0}, .authkey = "secret"});
    // One call at a time for each object; over TCP all is encrypted with a key made from authkey.
    server.expose<&JobBoard::post, &JobBoard::take, &JobBoard::done>("board",
                                                                     std::make_shared<JobBoard>());
    server.start();  // in threads of its own; serve() would stay here

    mp::Manager here = mp::Manager::connect(server.address(), {.authkey = "secret"});
    auto board = here.get<JobBoard>("board");
    for (int job = 0; job < 100; ++job) board.submit<&JobBoard::post>(job);
    board.flush();

    std::thread one(work_for, server.address()), two(work_for, server.address());
    one.join(), two.join();
    std::printf("%zu results\n",
                server.object<JobBoard>("board").call<&JobBoard::results>().size());  // 100

    try {
        board.call<&JobBoard::results>();  // not exposed
    } catch (const mp::NotExposed& e) {
        std::printf("%s\n", e.what());
    }
    try {
        mp::Manager::connect(server.address(), {.authkey = "wrong"});
    } catch (const mp::AuthenticationError& e) {
        std::printf("%s\n", e.what());
    }
    server.stop();
}

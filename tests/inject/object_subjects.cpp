// Objects in other processes: of a Manager, of an Actor, of a ManagerServer in a child of its own.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>

#include "subjects.hpp"

using namespace std::chrono_literals;

namespace subjects {
namespace {

class Account {
  public:
    int add(int n) { return sum_ += n; }
    int sum() const { return sum_; }
    std::string echo(std::string text) const { return text; }
    int refuse() { throw std::domain_error("thrown"); }
    [[noreturn]] void crash() { __builtin_trap(); }
    // Far longer than the timeout that such a call has here.
    int stay() {
        std::this_thread::sleep_for(20s);  // style-ok: ended by the timeout
        return sum_;
    }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(sum_);
    }

  private:
    int sum_ = 0;
};

// What is the same with every proxy.
void call_an_account(const sidestep::Proxy<Account>& account) {
    expect(account.call<&Account::add>(2) == 2, "a call's result");
    std::vector<sidestep::Future<int>> sums;
    for (int i = 0; i < 5; ++i) sums.push_back(account.submit<&Account::add>(1));
    for (int i = 0; i < 5; ++i)
        expect(sums[static_cast<std::size_t>(i)].get() == 3 + i, "the results of queued calls");
    expect_throw<std::domain_error>([&] { account.call<&Account::refuse>(); }, "what a call threw");
    std::string large(300000, 'g');
    expect(account.call<&Account::echo>(large) == large, "a large result");
}

void use_faces(sidestep::Manager& manager) {
    auto words = manager.dict<std::string, int>();
    words.insert_or_assign("one", 1);
    expect(words.at("one") == 1 && words.size() == 1, "a dictionary's item");
    auto queue = manager.queue<int>();
    queue.put(7);
    auto got = queue.get_for(patience());
    expect(got == 7, "a queue's item");
    auto lock = manager.lock();
    std::scoped_lock hold(lock);
}

// In another process.
void visit(sidestep::Proxy<Account> account, sidestep::LockProxy lock) {
    std::scoped_lock hold(lock);
    (void)account.call<&Account::add>(100);
}

void lend_to_a_child(sidestep::Manager& manager, sidestep::StartMethod method) {
    auto account = manager.make<Account>();
    auto lock = manager.lock();
    sidestep::Process child(sidestep::ProcessOptions{.daemon = true, .start_method = method}, visit,
                            account, lock);
    child.start();
    child.join();
    expect_came(child.exitcode() == 0, "the visitor's exit code 0");
    std::scoped_lock hold(lock);
    expect(account.call<&Account::sum>() == 100, "what the visitor did");
}

void manage(sidestep::StartMethod method) {
    sidestep::Manager manager({.start_method = method, .stop_grace = patience()});
    call_an_account(manager.make<Account>());
    use_faces(manager);
    lend_to_a_child(manager, method);
    manager.shutdown();
    expect(!manager.is_alive(), "a Manager's end");
}

void act() {
    sidestep::Actor<Account> actor({.start_method = sidestep::StartMethod::forkserver});
    call_an_account(actor.proxy());
    expect_throw<sidestep::ActorLost>([&] { actor.call<&Account::crash>(); }, "a crash");
    expect_throw<sidestep::ActorLost>([&] { actor.call<&Account::add>(1); }, "a call after it");
}

void act_again() {
    sidestep::Actor<Account> actor({.start_method = sidestep::StartMethod::forkserver,
                                    .max_restarts = 5,
                                    .checkpoint_every = 1});
    call_an_account(actor.proxy());
    expect_throw<sidestep::ActorLost>([&] { actor.call<&Account::crash>(); }, "a crash");
    expect(actor.call<&Account::add>(1) == 8, "a sum that was kept");
    auto late = actor.with({.timeout = 50ms}).submit<&Account::stay>();
    expect_throw<sidestep::TaskTimeout>([&] { late.get(); }, "a call that is late");
    expect(actor.call<&Account::sum>() == 8, "a sum that was kept once more");
}

void serve(sidestep::Address address, sidestep::Connection owner) {
    sidestep::ManagerServer server({.address = std::move(address), .authkey = "key"});
    server.expose<&Account::add, &Account::refuse, &Account::echo>("account",
                                                                   std::make_shared<Account>());
    server.expose<sidestep::Queue<int>>("queue", 4);
    server.start();
    owner.send(server.address());
    try {
        (void)owner.recv_bytes();
    } catch (const std::exception&) {  // the owner has gone
    }
}

// Calls whose futures were dropped hold a session until its next beat, seconds later.
struct EndedSession {
    sidestep::Manager& manager;
    ~EndedSession() { manager.shutdown(); }
};

void connect(const sidestep::Address& address) {
    auto [mine, theirs] = sidestep::Pipe();
    sidestep::Process server(
        sidestep::ProcessOptions{.daemon = true, .start_method = sidestep::StartMethod::forkserver},
        serve, address, std::move(theirs));
    server.start();
    auto listens_at = mine.recv<sidestep::Address>();
    auto manager =
        sidestep::Manager::connect(listens_at, {.authkey = "key", .timeout = patience()});
    EndedSession ends{manager};
    call_an_account(manager.get<Account>("account"));
    auto queue = manager.get<sidestep::Queue<int>>("queue");
    queue.put(3);
    expect(queue.get_for(patience()) == 3, "an exposed queue's item");
    expect_throw<sidestep::NotExposed>([&] { manager.get<Account>("nothing"); }, "no such name");
    manager.shutdown();
    mine.close();
    server.join();
    expect_came(server.exitcode() == 0, "the server's exit code 0");
}

}  // namespace

void use_manager() {
    step_twice("fork server", [] { manage(sidestep::StartMethod::forkserver); });
    step_twice("spawn", [] { manage(sidestep::StartMethod::spawn); });
}

void use_actor() {
    step_twice("actor", act);
    step_twice("actor that is started again", act_again);
}

void use_server() {
    step_twice("abstract", [] { connect(sidestep::UnixAddress{}); });
    step_twice("tcp", [] { connect(sidestep::TcpAddress{}); });
}

}  // namespace subjects

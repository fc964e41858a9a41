#include "actor_keeper.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>

#include <sidestep/detail/printed_output.hpp>
#include <sidestep/listener.hpp>
#include <sidestep/process.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/start_method.hpp>
#include <sidestep/wait.hpp>

#include "actor_board.hpp"
#include "insist.hpp"
#include "object_server.hpp"
#include "sys/parent_fd.hpp"

namespace sidestep::inline v0::detail {
namespace {

// What a forked process of the object finds in its memory.
struct ActorRun {
    const ActorSetup& setup;
    const MakeActor& make;
    RawValue<ActorNumbers> numbers;
    Listener listener;
    Connection owner;
    ActorDuty duty;
    Connection here, there;  // of a keeper: its end and the child's
};
ActorRun* run_here = nullptr;  // set before the fork, by the only thread that forks

class ActorProcess final : public ActorHost {
  public:
    explicit ActorProcess(const ActorRun& run) : run_(run) {}
    unsigned readers() const override { return run_.setup.readers; }
    unsigned checkpoint_every() const override { return run_.setup.checkpoint_every; }
    void save(std::span<const std::byte> state) override { run_.duty.board->save(state); }
    std::optional<std::vector<std::byte>> last_state() const override {
        if (checkpoint_every() == 0) return std::nullopt;
        return run_.duty.board->last_state();
    }

  private:
    const ActorRun& run_;
};

std::vector<std::byte> save_thrown() {
    HeapBuffer buffer;
    OutputArchive archive(buffer);
    save_current_exception(archive, fmt::format("  in the actor's process {}\n", ::getpid()));
    return {buffer.bytes().begin(), buffer.bytes().end()};
}

// What a restart lacks (descriptors, processes, memory) may come back: it is asked for again, as
// long as a pool's workers are by default (PoolOptions::start_patience).
class Patience {
  public:
    static constexpr std::chrono::milliseconds kPause{20};
    static bool may_help(const std::exception& error) {
        if (const auto* failure = dynamic_cast<const std::system_error*>(&error))
            return may_pass(*failure);
        return dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
    }
    bool allows(const std::exception& error) const { return may_help(error) && !is_over(until_); }
    static constexpr std::chrono::seconds kWhole{10}, kNone{0};

    explicit Patience(std::chrono::seconds time) : until_(deadline_after(Timeout(time))) {}

  private:
    const Deadline until_;
};

// The constructor has called pthread_exit(): its thread is that of the process.
[[noreturn]] void end_with_thread(ActorRun& run, Connection& parent) {
    ActorBegun begun;
    begun.address = std::get<UnixAddress>(run.listener.address());
    try {
        throw std::runtime_error("the constructor has ended its thread (pthread_exit)");
    } catch (...) {
        begun.thrown = save_thrown();
    }
    parent.send(begun);
    exit_process(1);
}

void make_server(std::optional<ObjectServer>& server, ActorRun& run, const Patience& patience) {
    for (;;) {
        try {
            server.emplace(actor_server(run.setup, run.listener.address(), ::getpid()),
                           ServerRules{.actor = &run.duty});
            return;
        } catch (const std::exception& error) {
            if (!patience.allows(error)) throw;
        }
        std::this_thread::sleep_for(Patience::kPause);
    }
}

// False: there is no object, its constructor threw.
bool serve_actor(ActorRun& run, Connection& parent) {
    // Not that by which the keeper forked it.
    force_start_method(static_cast<StartMethod>(run.setup.start_method));
    leave_terminal_alone();
    const auto hidden = insist_on_memory(
        [&] { return std::make_unique<ParentFdMark>(listening_socket(run.listener)); });
    ActorProcess host(run);
    ActorBegun begun;
    std::shared_ptr<Hosted> object;
    try {
        object = run.make(host);
        begun.serves = true;
    } catch (...) {
        if (!std::current_exception()) end_with_thread(run, parent);
        begun.thrown = save_thrown();
    }
    (void)flush_printed();  // the constructor's: its first call may cost the process
    begun.address = std::get<UnixAddress>(run.listener.address());
    if (!begun.serves) {
        parent.send(begun);
        return false;
    }
    run.duty.state.pid = ::getpid();
    std::optional<ObjectServer> server;
    make_server(server, run,
                Patience(run.duty.state.restarts > 0 ? Patience::kWhole : Patience::kNone));
    insist_on_memory([&] { (void)server->keep(object); });
    object = nullptr;
    insist_on_memory([&] { parent.send(begun); });
    server->run(run.listener, parent);
    return true;
}

void serve_forked() {
    ActorRun& run = *run_here;
    run.owner.close();
    run.here.close();
    if (!serve_actor(run, run.there)) exit_process(1);
}

// --- the keeper ------------------------------------------------------------------------------

enum class Watched { died, stopped };

// True: the owner wants the end, or has ended.
bool owner_ends_it(const ActorRun& run, std::chrono::milliseconds time) {
    return insist_while_short([&] { return !wait({run.owner}, Timeout(time)).empty(); });
}

// Takes what the child says; the first one's is for the owner, who waits for it, or for the end of
// this process: what keeps it from him is thrown. Returns why its constructor threw.
std::string hear_child(ActorRun& run, bool first, bool& serves) {
    ActorBegun begun;
    try {
        begun = run.here.recv<ActorBegun>();
    } catch (const EndOfStream&) {  // it has nothing more to say
        run.here.close();
        return {};
    } catch (const std::exception&) {
        if (first && !serves) throw;
        if (!run.here.readable()) run.here.close();
        return {};
    }
    serves = begun.serves;
    if (first) run.owner.send(begun);
    if (begun.thrown.empty()) return {};
    try {
        InputArchive archive(begun.thrown);
        return "its constructor threw: " + text_of(load_exception(archive));
    } catch (const std::exception&) {  // no memory: the owner has it, or has been told before
        return "its constructor threw";
    }
}

void tell_to_stop(Connection& child) {
    if (child.closed()) return;
    try {
        child.send_bytes("stop");
    } catch (const std::system_error&) {  // it has ended; or it takes this for the end as well
        child.close();
    }
}

Watched watch_child(ActorRun& run, Process& child, bool first, Casualty& end) {
    bool serves = false;
    const auto wait_for_news = [&] {
        std::vector<Waitable> things{run.owner, child.sentinel()};
        if (!run.here.closed()) things.emplace_back(run.here);
        return wait(things);
    };
    const auto has_more = [&] { return !run.here.closed() && run.here.poll(); };
    for (bool ended = false; !ended;) {
        for (const Waitable& ready : insist_while_short(wait_for_news)) {
            if (ready == run.owner) {  // it wants the end, or has ended
                tell_to_stop(run.here);
                child.join();
                return Watched::stopped;
            }
            if (ready == child.sentinel()) ended = true;
        }
        while (insist_while_short(has_more))
            if (std::string why = hear_child(run, first, serves); !why.empty()) end.note = why;
    }
    std::string note = std::exchange(end.note, {});
    const bool is_told = !note.empty();  // by the child
    const ExitStatus status = child.join();
    end = insist_on_memory([&] { return Casualty::of(child.pid(), status); });
    if (is_told) end.note = std::move(note);
    if (!first || serves) return Watched::died;
    if (!is_told) run.owner.send(ActorBegun{.end = end});
    return Watched::stopped;
}

// Whether it may be started again, and when: at once if it had lived for a while; else one that
// dies at each start, or whose clients send it again what it dies of, would take all of a CPU.
class Restarts {
  public:
    explicit Restarts(const ActorSetup& setup) : setup_(setup) {}
    bool allow() {
        const auto now = std::chrono::steady_clock::now();
        while (!deaths_.empty() && now - deaths_.front() > setup_.within) deaths_.pop_front();
        if (deaths_.size() >= setup_.max_restarts) return false;
        deaths_.push_back(now);  // or nothing is counted
        if (count_ == 0 || now - started_ > kMostPause)
            pause_ = {};
        else
            pause_ = std::clamp(2 * pause_, kLeastPause, kMostPause);
        ++count_;
        return true;
    }
    std::chrono::milliseconds pause() const { return pause_; }
    void note_start() { started_ = std::chrono::steady_clock::now(); }
    // Counted here, in memory that the object's process cannot write to.
    std::uint32_t count() const { return count_; }

  private:
    static constexpr std::chrono::milliseconds kLeastPause{10}, kMostPause{1000};
    const ActorSetup& setup_;
    std::deque<std::chrono::steady_clock::time_point> deaths_;
    std::chrono::steady_clock::time_point started_{};
    std::chrono::milliseconds pause_{};
    std::uint32_t count_ = 0;
};

void note_death(ActorRun& run, const Casualty& end) {
    ActorDuty& duty = run.duty;
    const auto calls = insist_on_memory([&] { return duty.board->take_begun(); });
    insist_on_memory([&] {
        duty.state.last = end;
        Casualty began = end;
        began.began = true;
        for (const auto& [call, overdue] : calls) {
            began.overdue = overdue;
            duty.begun_before.emplace(call, began);
        }
    });
}

// Null: the system gives no process, which counts as a death; or the owner wants the end. Throws
// for the first one.
std::unique_ptr<Process> start_child(ActorRun& run, bool first, Casualty& end) {
    for (const Patience patience(Patience::kWhole);;) {
        try {
            std::tie(run.here, run.there) = Pipe();
            auto child = std::make_unique<Process>(
                ProcessOptions{.name = run.setup.name,
                               .daemon = true,
                               .start_method = StartMethod::fork_threaded},
                &serve_forked);
            child->start();
            run.there.close();
            return child;
        } catch (const std::exception& error) {
            if (first) throw;
            run.here.close();
            run.there.close();
            if (!patience.allows(error)) {
                const bool was_tried = Patience::may_help(error);
                insist_on_memory([&] {
                    end.note = fmt::format(
                        "it could not be started again{}: {}",
                        was_tried ? fmt::format(" for {} s", Patience::kWhole.count()) : "",
                        error.what());
                });
                return nullptr;
            }
        }
        if (owner_ends_it(run, Patience::kPause)) return nullptr;
    }
}

void keep_actor(ActorRun& run) {
    leave_terminal_alone();
    ActorBoard board(run.setup.checkpoint_every > 0);
    run.duty.board = &board;
    run_here = &run;
    ActorNumbers& numbers = run.numbers.value();
    Restarts restarts(run.setup);
    for (bool first = true;; first = false) {
        Casualty end;
        const std::unique_ptr<Process> child = start_child(run, first, end);
        restarts.note_start();
        if (child) numbers.pid = child->pid();
        if (child && watch_child(run, *child, first, end) == Watched::stopped) return;
        note_death(run, end);
        if (!insist_on_memory([&] { return restarts.allow(); })) break;
        run.duty.state.restarts = restarts.count();
        numbers.restarts = restarts.count();
        if (owner_ends_it(run, restarts.pause())) return;
    }
    numbers.pid = 0;
    run.duty.state.over = true;
    std::string& note = run.duty.state.last.note;
    note = insist_on_memory([&] {
        return fmt::format("{}{}it is not started again: max_restarts is {}", note,
                           note.empty() ? "" : "; ", run.setup.max_restarts);
    });
    std::optional<ObjectServer> server;
    try {
        make_server(server, run, Patience(Patience::kNone));
    } catch (const std::exception&) {  // it cannot even say so, but to its owner
        throw std::runtime_error(note);
    }
    server->run(run.listener, run.owner);
}

}  // namespace

ServerName actor_server(const ActorSetup& setup, const Address& address, int pid) {
    return {.address = address,
            .authkey = setup.authkey,
            .pid = pid,
            .actor = setup.name,
            .restarts = setup.max_restarts > 0,
            .max_pending = setup.max_pending};
}

void run_actor(const ActorSetup& setup, Connection owner, RawValue<ActorNumbers> numbers,
               const MakeActor& make) {
    ActorRun run{.setup = setup,
                 .make = make,
                 .numbers = numbers,
                 .listener = Listener({.authkey = setup.authkey}),
                 .owner = std::move(owner),
                 .duty = {},
                 .here = {},
                 .there = {}};
    run.duty.timeout_grace = setup.timeout_grace;
    if (setup.max_restarts > 0) return keep_actor(run);
    numbers.value().pid = ::getpid();
    (void)serve_actor(run, run.owner);
}

}  // namespace sidestep::detail

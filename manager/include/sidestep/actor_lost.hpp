// What a call of an object in another process can end with besides what the method throws.
//
// Threads: values; what() is thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <sidestep/detail/travel.hpp>
#include <sidestep/exit_status.hpp>
#include <sidestep/pool_errors.hpp>

namespace sidestep::inline v0 {

// The server that holds the object ended, or was cut off, before it answered.
class ActorLost : public WorkerLost {
  public:
    // actor: its name; empty: it is a server of several objects.
    ActorLost(Details details, std::uint64_t object, std::string method, bool began,
              const std::string& actor = {});

    // "the actor Account (process 4711) died of signal 6 (SIGABRT) in Account::crash()", or "the
    // server of objects 4211 died of signal 9 (SIGKILL) before it answered ... of object 3; the
    // call had not begun".
    const char* what() const noexcept override { return text_->c_str(); }
    std::uint64_t object() const { return object_; }
    // What was called, as the compiler spells it.
    const std::string& method() const { return *method_; }
    // False: the call had certainly not begun. True: it may have begun, and may have run in part or
    // as a whole. Of each thread's calls it is true of those that waited within their object, and
    // of the first other one that was not answered. It is true of more, though some had not begun,
    // - with a ManagerServer that has many short calls in flight: of all that it had announced
    //   together, 64 of a thread at most;
    // - over TCP: of all that were sent and not answered, since the server's last words may have
    //   been lost on the way (unless it closed the connection in good order);
    // - with an actor, if this process lacks what it needs to connect to it again: of all that were
    //   sent.
    bool began() const { return began_; }

  protected:
    struct Text {
        std::string text;
    };
    ActorLost(Details details, std::uint64_t object, std::string method, bool began, Text text);

  private:
    std::shared_ptr<const std::string> text_, method_;
    std::uint64_t object_;
    bool began_;
};

// A call took longer than its timeout (Proxy::with). Its object may have been changed in part.
class CallTimeout : public TaskTimeout {
  public:
    // details.limit: the timeout. `where`: "the actor Account (process 4711)".
    CallTimeout(Details details, const std::string& method, const std::string& where);
    // "the actor Account (process 4711) did not answer Account::hang() within 50 ms"
    const char* what() const noexcept override { return text_->c_str(); }

  private:
    std::shared_ptr<const std::string> text_;
};

// The end of a process of an actor, or of a Manager's server: see Proxy::death().
struct ActorDeath {
    int pid = 0;
    ExitStatus exit_status;
    std::string note;  // what else is known, or empty

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);
};

// The session at a ManagerServer is over: the server ended, the network failed, or one side was
// silent for longer than `lost_after`. What this process had there (references, locks, calls) is
// gone or will be; Manager::connect() begins a new session, with new proxies. Over TCP began() is
// true of all calls that were sent and not answered, unless the server closed in good order.
class Disconnected : public ActorLost {
  public:
    // details.note: why. address: the server's.
    Disconnected(Details details, std::uint64_t object, std::string method, bool began,
                 const std::string& address);
};

// The server has no such object (any more): nobody had a proxy of it when this one arrived.
class NoSuchObject : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// A ManagerServer does not offer what was asked for: what() names that, and what it does offer.
class NotExposed : public std::runtime_error {
  public:
    NotExposed() : NotExposed("", "", {}) {}  // to be read into
    // what: "the method JobBoard::results"; of what: "the object \"board\"".
    NotExposed(const std::string& what, const std::string& of_what,
               std::vector<std::string> exposed);

    const std::string& asked() const { return state_->asked; }
    // The names of what there is.
    const std::vector<std::string>& exposed() const { return state_->exposed; }
    // The same, of who knows better what was asked for.
    NotExposed named(const std::string& what) const;

    template <class Archive>
    void save(Archive& archive) const {
        archive(state_->asked, state_->of_what, state_->exposed);
    }
    template <class Archive>
    void load(Archive& archive) {
        State state;
        archive(state.asked, state.of_what, state.exposed);
        *this = NotExposed(state.asked, state.of_what, std::move(state.exposed));
    }

  private:
    struct State {
        std::string asked, of_what;
        std::vector<std::string> exposed;
    };
    std::shared_ptr<const State> state_;  // shared: exceptions are copied
};

}  // namespace sidestep

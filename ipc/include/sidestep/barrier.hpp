// Barrier: a number of parties wait for each other, again and again.
//
//     state           | wait()                      | abort() | reset()
//     ----------------|-----------------------------|---------|------------------------------
//     filling         | waits; the last runs the    | broken  | filling; who waits gets
//                     | action and lets all go      |         | BrokenBarrierError
//     broken          | BrokenBarrierError          | broken  | filling
//
// A timeout, an action that throws, abort(), the death of a party, and a process that writes over
// its memory (where that can be told) break the barrier; the message of BrokenBarrierError says
// which it was, and of which process. Timeouts count until all parties have come: they do not
// end while the action runs.
//
// Ownership:  it lives in shared memory without a name, for as long as any handle does.
// Threads:    thread-safe and process-shared; a party is a thread of any process. A handle is a
//             small value whose copies are one barrier.
// Fork:       a forked child has the handles too, and is a party of its own once it waits.
// Peer death: a process counts as a party from its first wait() until the round after its last, or
//             until its last handle is gone. If it dies within, whoever waits gets
//             BrokenBarrierError, within as long as it has waited already (2 to 100 ms). So a
//             process that ends after some rounds, while others go on, drops its handles or calls
//             leave().
// Errors:     BrokenBarrierError; std::invalid_argument for 0 parties, or more than 4096;
//             std::logic_error for a handle that was moved from.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include <sidestep/detail/object_ref.hpp>
#include <sidestep/detail/sent_call.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

class BrokenBarrierError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct BarrierOptions {
    std::optional<Timeout> timeout = {};  // of wait(); none: for ever
};

class Barrier {
  public:
    explicit Barrier(unsigned parties, BarrierOptions options = {})
        : Barrier(parties, std::shared_ptr<detail::SentCall>(), options) {}
    // The last party to arrive calls action() before any goes on. What it throws comes out of its
    // wait(), and breaks the barrier. It travels with the handle, so it is what can be a task: a
    // function, a captureless lambda, a functor with `serialize`, bind(f, args...). Such a barrier
    // is an argument of a task or a Process only: one that came in a message could run anything.
    template <class F>
    requires std::is_invocable_v<F&> Barrier(unsigned parties, F action,
                                             BarrierOptions options = {})
        : Barrier(parties, make_action(std::move(action)), options) {}
    explicit Barrier(detail::Blank) noexcept {}

    // Waits until all parties have come. Returns 0 for the first who came, parties() - 1 for the
    // last. Throws BrokenBarrierError.
    unsigned wait();
    // With a timeout of its own, in place of the barrier's.
    unsigned wait_for(Timeout timeout) {
        return wait_until_deadline(detail::deadline_after(timeout));
    }

    void reset();
    void abort();
    // The calling process is no party any more (until it waits again): its end breaks nothing.
    void leave();

    unsigned parties() const;
    unsigned n_waiting() const;
    bool broken() const;

    friend bool operator==(const Barrier& a, const Barrier& b) { return a.ref_ == b.ref_; }

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    struct State;
    Barrier(unsigned parties, std::shared_ptr<detail::SentCall> action, BarrierOptions options);
    template <class F>
    static std::shared_ptr<detail::SentCall> make_action(F action) {
        return detail::make_sent_call(std::move(action));
    }
    struct View;
    void leave_at_end();
    unsigned wait_until_deadline(const detail::Deadline& deadline);
    unsigned complete(View& all, unsigned index, std::uint32_t round);

    detail::ObjectRef ref_;
    std::uint32_t parties_ = 0;     // as the barrier was made
    std::int64_t timeout_ns_ = -1;  // negative: none
    std::shared_ptr<detail::SentCall> action_;
    std::shared_ptr<void> leaver_;  // leaves when the process drops its last handle
};

}  // namespace sidestep

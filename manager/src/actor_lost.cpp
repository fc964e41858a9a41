#include <sidestep/actor_lost.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

#include "object_frame.hpp"
#include "task/attempts.hpp"

namespace sidestep::inline v0 {
namespace {
std::string describe_call(std::uint64_t object, const std::string& method) {
    return object != 0 ? fmt::format("{} of object {}", method, object) : method;
}
const char* describe_begun(bool began) {
    return began ? "the call may have run" : "the call had not begun";
}

std::string describe_loss(const TaskError::Details& details, std::uint64_t object,
                          const std::string& method, bool began) {
    std::string how = details.exit_status.running() ? "cannot be reached (any more)"
                                                    : details.exit_status.describe();
    return fmt::format("the server of objects {} {} before it answered {}; {}{}{}", details.pid,
                       how, describe_call(object, method), describe_begun(began),
                       details.note.empty() ? "" : ": ", details.note);
}
// Of an actor: that it can be reached no more is all that is known, if it is no child.
std::string describe_actor(const TaskError::Details& details, const std::string& method, bool began,
                           const std::string& actor) {
    std::string how = details.exit_status.running() ? "cannot be reached (any more)"
                                                    : details.exit_status.describe();
    return fmt::format("the actor {} (process {}) {} {}{}{}{}{}", actor, details.pid, how,
                       began ? "in " : "before it began ", method,
                       detail::attempts_text(details, "max_crashes"),
                       details.note.empty() ? "" : "; ", details.note);
}
std::string describe_end(const TaskError::Details& details, std::uint64_t object,
                         const std::string& method, bool began, const std::string& address) {
    return fmt::format(
        "the session at the server {} is over ({}) before it answered {}; {}. Locks and references "
        "of this session are given back; Manager::connect() begins a new one",
        address, details.note, describe_call(object, method), describe_begun(began));
}
std::string describe_refusal(const std::string& what, const std::string& of_what,
                             const std::vector<std::string>& exposed) {
    if (exposed.empty()) return fmt::format("{} of {} is not exposed: nothing is", what, of_what);
    return fmt::format("{} of {} is not exposed; what is: {}", what, of_what,
                       fmt::join(exposed, ", "));
}
}  // namespace

ActorLost::ActorLost(Details details, std::uint64_t object, std::string method, bool began,
                     Text text)
    : WorkerLost(details),
      text_(std::make_shared<const std::string>(std::move(text.text))),
      method_(std::make_shared<const std::string>(std::move(method))),
      object_(object),
      began_(began) {}

ActorLost::ActorLost(Details details, std::uint64_t object, std::string method, bool began,
                     const std::string& actor)
    : ActorLost(details, object, method, began,
                Text{actor.empty() ? describe_loss(details, object, method, began)
                                   : describe_actor(details, method, began, actor)}) {}

CallTimeout::CallTimeout(Details details, const std::string& method, const std::string& where)
    : TaskTimeout(details),
      text_(std::make_shared<const std::string>(
          fmt::format("{} did not answer {} within {} ms{}: give it less to do, or more time",
                      where, method, details.limit / 1'000'000, detail::attempts_text(details)))) {}

Disconnected::Disconnected(Details details, std::uint64_t object, std::string method, bool began,
                           const std::string& address)
    : ActorLost(details, object, method, began,
                Text{describe_end(details, object, method, began, address)}) {}

void ActorDeath::save(OutputArchive& archive) const {
    detail::Casualty end = detail::Casualty::of(pid, exit_status);
    end.note = note;
    archive(end);
}
void ActorDeath::load(InputArchive& archive) {
    detail::Casualty end;
    archive(end);
    pid = end.pid;
    exit_status = end.status();
    note = end.note;
}

NotExposed::NotExposed(const std::string& what, const std::string& of_what,
                       std::vector<std::string> exposed)
    : std::runtime_error(describe_refusal(what, of_what, exposed)),
      state_(std::make_shared<const State>(State{what, of_what, std::move(exposed)})) {}

NotExposed NotExposed::named(const std::string& what) const {
    return NotExposed(what, state_->of_what, state_->exposed);
}

}  // namespace sidestep

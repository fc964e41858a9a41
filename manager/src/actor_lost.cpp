#include <sidestep/actor_lost.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <utility>

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
                     std::string text)
    : WorkerLost(details),
      text_(std::make_shared<const std::string>(std::move(text))),
      method_(std::make_shared<const std::string>(std::move(method))),
      object_(object),
      began_(began) {}

ActorLost::ActorLost(Details details, std::uint64_t object, std::string method, bool began)
    : ActorLost(details, object, method, began, describe_loss(details, object, method, began)) {}

Disconnected::Disconnected(Details details, std::uint64_t object, std::string method, bool began,
                           const std::string& address)
    : ActorLost(details, object, method, began,
                describe_end(details, object, method, began, address)) {}

NotExposed::NotExposed(const std::string& what, const std::string& of_what,
                       std::vector<std::string> exposed)
    : std::runtime_error(describe_refusal(what, of_what, exposed)),
      state_(std::make_shared<const State>(State{what, of_what, std::move(exposed)})) {}

NotExposed NotExposed::named(const std::string& what) const {
    return NotExposed(what, state_->of_what, state_->exposed);
}

}  // namespace sidestep

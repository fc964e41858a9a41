#include <sidestep/actor_lost.hpp>

#include <fmt/format.h>

#include <utility>

namespace sidestep::inline v0 {
namespace {
std::string describe_loss(const TaskError::Details& details, std::uint64_t object,
                          const std::string& method, bool began) {
    std::string how = details.exit_status.running() ? "cannot be reached (any more)"
                                                    : details.exit_status.describe();
    std::string what = object != 0 ? fmt::format("{} of object {}", method, object) : method;
    return fmt::format("the server of objects {} {} before it answered {}; {}{}{}", details.pid,
                       how, what, began ? "the call may have run" : "the call had not begun",
                       details.note.empty() ? "" : ": ", details.note);
}
}  // namespace

ActorLost::ActorLost(Details details, std::uint64_t object, std::string method, bool began)
    : WorkerLost(details),
      text_(std::make_shared<const std::string>(describe_loss(details, object, method, began))),
      method_(std::make_shared<const std::string>(std::move(method))),
      object_(object),
      began_(began) {}

}  // namespace sidestep

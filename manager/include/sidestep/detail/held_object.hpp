// The client's side of an object that lives in a server: what a Proxy is made of. Internal.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <sidestep/detail/task_state.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

class ServerLink;  // this process's connection to one server
class HeldObject;  // a reference to an object there; the last copy gives it back
using HeldRef = std::shared_ptr<HeldObject>;

struct CallKind {
    const TaskId& id;
    const TaskEntry& entry;
};
template <class Body>
CallKind call_kind() {
    return {task_id<Body>(), kTaskEntry<Body>};
}
using WriteArguments = std::function<void(OutputArchive&)>;

// Sends a call; the result are the bytes that the body wrote. What `write` throws comes out, and
// nothing was sent.
TaskRef start_call(const HeldRef& object, const CallKind& kind, const WriteArguments& write);
// The same, of a body that makes an object: returns the reference to it.
HeldRef make_object(const std::shared_ptr<ServerLink>& link, const CallKind& kind,
                    const WriteArguments& write);
void flush_calls(const HeldRef& object);
std::uint64_t object_number(const HeldRef& object);
bool same_object(const HeldRef& a, const HeldRef& b);

// A reference on its way: it counts at the server until it is read for the first time.
void save_held(const HeldRef& object, OutputArchive& archive);
HeldRef load_held(InputArchive& archive);

}  // namespace sidestep::detail

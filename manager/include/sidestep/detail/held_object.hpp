// The client's side of an object that lives in a server: what a Proxy is made of. Internal.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <typeinfo>

#include <sidestep/detail/task_state.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_options.hpp>

namespace sidestep::inline v0::detail {

class ServerLink;  // this process's connection to one server
class HeldObject;  // a reference to an object there; the last copy gives it back
using HeldRef = std::shared_ptr<HeldObject>;

// The method as the type of its pointer, which has the result, and its name, which has the rest.
template <class Pointer, Pointer method>
struct MethodTag;
template <auto method>
const char* method_name() {
    return typeid(MethodTag<std::remove_const_t<decltype(method)>, method>*).name();
}

struct CallKind {
    const TaskId& id;
    const TaskEntry& entry;
    const char* method = nullptr;  // method_name(); null: it is a function
};
template <class Body>
CallKind call_kind(const char* method = nullptr) {
    return {task_id<Body>(), kTaskEntry<Body>, method};
}
using WriteArguments = std::function<void(OutputArchive&)>;

// How one call is run.
struct CallLimits {
    std::chrono::nanoseconds timeout{0};  // 0: none
    unsigned attempts = 1, crashes = 1;   // how often it may run, and end an actor
};
// Throws std::invalid_argument for what a call has no use for.
CallLimits call_limits(const TaskOptions& options);

// Sends a call; the result are the bytes that the body wrote. What `write` throws comes out, and
// nothing was sent.
TaskRef start_call(const HeldRef& object, const CallKind& kind, const WriteArguments& write,
                   const CallLimits& limits = {});
// False: another call would have to wait.
bool has_room(const HeldRef& object);
TaskRef watch_death(const HeldRef& object);
// The same, of a body that makes an object: returns the reference to it.
HeldRef make_object(const std::shared_ptr<ServerLink>& link, const CallKind& kind,
                    const WriteArguments& write);
// What a ManagerServer exposes by this name. Throws NotExposed.
HeldRef find_object(const std::shared_ptr<ServerLink>& link, const std::string& name,
                    const char* type);
void flush_calls(const HeldRef& object);
// flush_calls() throws it, if it is the first.
void note_unseen(const HeldRef& object, const std::exception_ptr& error) noexcept;
std::uint64_t object_number(const HeldRef& object);
bool same_object(const HeldRef& a, const HeldRef& b);
// Of a call that failed with ActorLost: the server is known to have ended, and all that it held. If
// it has ended the connection, it is asked for, two seconds at most; false, too, if that leaves it
// open.
bool server_has_ended(const HeldRef& object);

// A reference on its way: it counts at the server until it is read for the first time.
void save_held(const HeldRef& object, OutputArchive& archive);
HeldRef load_held(InputArchive& archive);

}  // namespace sidestep::detail

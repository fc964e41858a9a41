#include <sidestep/detail/held_object.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <utility>

#include <sidestep/actor_lost.hpp>

#include "link_registry.hpp"
#include "server_link.hpp"

namespace sidestep::inline v0::detail {

HeldObject::~HeldObject() {
    if (link_->same_process())
        link_->release(object_);
    else
        leave_parents_link();
}

// Its locks may be held by threads that this process does not have, and there may be waiters in
// them: it is not to be destroyed here.
void HeldObject::leave_parents_link() noexcept {
    (void)new (std::nothrow) std::shared_ptr<ServerLink>(link_);
}

std::shared_ptr<ServerLink> HeldObject::link() {
    LinkRegistry& known = link_registry();
    {
        std::lock_guard lock(known.mutex);
        if (link_->same_process()) return link_;
    }
    std::shared_ptr<ServerLink> own = ServerLink::to(server_);
    std::lock_guard lock(known.mutex);
    if (!link_->same_process()) {
        own->claim(object_, 0);
        leave_parents_link();
        link_ = own;
    }
    return link_;
}

std::shared_ptr<ServerLink> HeldObject::own_link() const {
    LinkRegistry& known = link_registry();
    std::lock_guard lock(known.mutex);
    return link_->same_process() ? link_ : nullptr;
}

namespace {
HeldObject& held(const HeldRef& object) {
    if (!object)
        throw std::logic_error(
            "this proxy refers to no object: it is a default one, or was moved from");
    return *object;
}
}  // namespace

CallLimits call_limits(const TaskOptions& options) {
    check_options(options);
    auto refuse = [](const char* what) {
        throw std::invalid_argument(fmt::format(
            "TaskOptions::{} is for tasks of a pool: a call of an object has a timeout, "
            "retry.max_attempts and retry.max_crashes",
            what));
    };
    if (options.memory_limit != 0) refuse("memory_limit");
    if (options.priority != 0) refuse("priority");
    if (options.key != 0) refuse("key");
    if (options.soft_timeout.count() != 0) refuse("soft_timeout");
    if (!options.name.empty()) refuse("name");
    if (!options.uses.empty()) refuse("uses");
    CallLimits limits;
    if (options.timeout.count() != 0 && !options.timeout.is_forever())
        limits.timeout = options.timeout.time();
    if (options.retry.when || options.retry.backoff.count() != 0) refuse("retry.when and .backoff");
    limits.attempts = std::max(options.retry.max_attempts, 1u);
    limits.crashes = options.retry.max_crashes;
    return limits;
}
bool has_room(const HeldRef& object) { return held(object).link()->has_room(); }
TaskRef watch_death(const HeldRef& object) { return held(object).link()->watch_death(); }

TaskRef start_call(const HeldRef& object, const CallKind& kind, const WriteArguments& write,
                   const CallLimits& limits) {
    if (!kind.method && !held(object).takes_functions())
        throw NotExposed(fmt::format("the function {}", describe_entry(kind.entry)),
                         fmt::format("object {} of the ManagerServer {}", object->object(),
                                     to_string(object->server().address)),
                         {"some of its methods"});
    return held(object).link()->call(object->object(), kind, write, limits);
}
HeldRef make_object(const std::shared_ptr<ServerLink>& link, const CallKind& kind,
                    const WriteArguments& write) {
    TaskRef task = link->call(0, kind, write);
    (void)task->wait({});
    (void)task->value();  // throws
    std::uint64_t object = 0;
    InputArchive archive(task->result());
    archive(object);
    return std::make_shared<HeldObject>(link, object);
}
HeldRef find_object(const std::shared_ptr<ServerLink>& link, const std::string& name,
                    const char* type) {
    auto [object, functions] = link->get(name, type);
    return std::make_shared<HeldObject>(link, object, functions);
}
void flush_calls(const HeldRef& object) { held(object).link()->flush(object->object()); }
void note_unseen(const HeldRef& object, const std::exception_ptr& error) noexcept {
    if (const auto link = object->own_link()) link->note_unseen(object->object(), error);
}
std::uint64_t object_number(const HeldRef& object) { return held(object).object(); }
bool same_object(const HeldRef& a, const HeldRef& b) {
    return a == b ||
           (a && b && a->object() == b->object() && a->server().key() == b->server().key());
}
bool server_has_ended(const HeldRef& object) {
    if (const auto link = held(object).own_link()) {
        if (!link->ended_by_server()) return false;
        if (link->end_of_server().known) return true;
    }
    return has_ended(object->server());
}

void save_held(const HeldRef& object, OutputArchive& archive) {
    archive(object != nullptr);
    if (!object) return;
    const std::uint64_t ticket = object->link()->pin(object->object());
    archive(object->server(), object->object(), object->takes_functions(), ticket);
}
HeldRef load_held(InputArchive& archive) {
    bool any = false;
    archive(any);
    if (!any) return nullptr;
    ServerName server;
    std::uint64_t object = 0, ticket = 0;
    bool functions = false;
    archive(server, object, functions, ticket);
    std::shared_ptr<ServerLink> link = ServerLink::to(server);
    link->claim(object, ticket);
    return std::make_shared<HeldObject>(std::move(link), object, functions);
}

}  // namespace sidestep::detail

#include "server_link.hpp"

#include <fmt/format.h>
#include <sys/socket.h>

#include <cstdio>
#include <new>
#include <random>
#include <set>
#include <system_error>

#include <sidestep/actor_lost.hpp>
#include <sidestep/exit_hooks.hpp>

#include "object_server.hpp"
#include "sys/make_thread.hpp"
#include "sys/per_process.hpp"

namespace sidestep::inline v0::detail {
namespace {

struct LinkRegistry {
    std::mutex mutex;
    // Guarded by mutex. They stay: a worker's next task has the same proxies.
    std::map<std::string, std::shared_ptr<ServerLink>> links;
    bool reports_at_exit = false;
};
PerProcess<LinkRegistry> registry;

// What calls threw whose futures were dropped is not lost in silence.
void report_at_exit() {
    std::vector<std::shared_ptr<ServerLink>> all;
    {
        LinkRegistry& known = registry.get();
        std::lock_guard lock(known.mutex);
        for (auto& [address, link] : known.links)
            if (link) all.push_back(link);
    }
    for (auto& link : all) link->report_unseen();
}

// What the calls of one thread are known by at the server.
std::uint64_t this_caller() {
    static std::atomic<std::uint64_t> last{0};
    thread_local const std::uint64_t number = last.fetch_add(1, std::memory_order_relaxed) + 1;
    return number;
}

std::uint64_t new_ticket() {
    std::random_device random;
    return (std::uint64_t(random()) << 32 | random()) | 1;  // 0 is none
}

}  // namespace

std::shared_ptr<ServerLink> ServerLink::to(const ServerName& server) {
    LinkRegistry& known = registry.get();
    std::lock_guard lock(known.mutex);
    if (!std::exchange(known.reports_at_exit, true)) at_exit(&report_at_exit);
    std::shared_ptr<ServerLink>& link = known.links[to_string(server.address)];
    if (!link || link->broken()) {
        link.reset();
        std::erase_if(known.links, [&](const auto& other) {
            return &other.second != &link && (!other.second || other.second->broken());
        });
        link = std::make_shared<ServerLink>(server);
    }
    return link;
}

void ServerLink::close(const std::shared_ptr<ServerLink>& link) noexcept {
    LinkRegistry& known = registry.get();
    {
        std::lock_guard lock(known.mutex);
        std::erase_if(known.links, [&](const auto& other) { return other.second == link; });
    }
    link->break_off();
}

ServerLink::ServerLink(ServerName server)
    : server_(std::move(server)), local_(ObjectServer::here(server_)) {
    if (local_) return;
    try {
        connection_ = Client(server_.address, {.authkey = server_.authkey});
    } catch (const std::exception& error) {  // nobody listens, or it dies during the handshake
        TaskError::Details details;
        details.pid = server_.pid;
        details.note = error.what();
        throw ActorLost(std::move(details), 0, "to be connected to", false);
    }
}

ServerLink::~ServerLink() {
    if (!same_process()) return;
    report_unseen();
    // Copies in forked children keep the socket open, but not the connection.
    if (!connection_.closed()) ::shutdown(connection_.fd(), SHUT_RDWR);
}

void ServerLink::report_unseen() noexcept {
    std::map<std::uint64_t, PerObject> all;
    {
        std::lock_guard lock(mutex_);
        all.swap(objects_);
    }
    for (const auto& [object, state] : all) {
        if (!state.error) continue;
        try {
            std::rethrow_exception(state.error);
        } catch (const std::exception& error) {
            std::fprintf(stderr, "sidestep: a call of object %llu, whose result was dropped: %s\n",
                         static_cast<unsigned long long>(object), error.what());
        } catch (...) {  // it has no text
        }
    }
}

bool ServerLink::broken() const {
    std::lock_guard lock(mutex_);
    return broken_;
}
void ServerLink::set_process(std::shared_ptr<Process> process) {
    std::lock_guard lock(mutex_);
    process_ = std::move(process);
}

// --- calls -----------------------------------------------------------------------------------

TaskRef ServerLink::call(std::uint64_t object, const CallKind& kind, const WriteArguments& write) {
    HeapBuffer body;
    OutgoingFds fds(true);
    OutputArchive archive(body, &fds);
    write(archive);
    return send({FrameKind::call, 0, this_caller(), object, kind.id}, body, fds, &kind.entry);
}

TaskRef ServerLink::send(const FrameHead& head, const HeapBuffer& body, const OutgoingFds& fds,
                         const TaskEntry* entry) {
    Ref<CallTask> task(new CallTask(shared_from_this(), head.object, head.caller, entry));
    if (local_) {
        local_->call_here(head, body.bytes(), fds.fds(), *task);
        return task;
    }
    // Answers are read by who waits for them: not to read any would hold up the server.
    (void)wait_until([this] { return pending_.size() < kMostPending; }, {});
    FrameHead numbered = head;
    std::lock_guard order(sending_);
    {
        std::lock_guard lock(mutex_);
        if (broken_) {
            task->lose(lost(*task, false));
            return task;
        }
        numbered.request = ++last_request_;
        pending_.emplace(numbered.request, Pending{task});
        ++objects_[head.object].outstanding;
    }
    try {
        connection_.send(ObjectFrame{numbered, body.bytes(), fds.fds(), {}, {}});
    } catch (const std::system_error&) {  // who waits reads what was answered before, then its end
        ::shutdown(connection_.fd(), SHUT_RDWR);
    } catch (...) {
        take(numbered.request, [](CallTask& call) { call.answer({}); });
        throw;
    }
    return task;
}

std::uint64_t ServerLink::pin(std::uint64_t object) {
    const std::uint64_t ticket = new_ticket();
    if (local_) {
        local_->pin_here(object, ticket);
        return ticket;
    }
    HeapBuffer body;
    OutputArchive archive(body);
    archive(ticket);
    TaskRef task = send({FrameKind::pin, 0, 0, object, {}}, body, OutgoingFds(false), nullptr);
    (void)task->wait({});
    (void)task->value();
    return ticket;
}

void ServerLink::claim(std::uint64_t object, std::uint64_t ticket) {
    if (local_)
        local_->claim_here(object, ticket);
    else
        send_alone(FrameKind::claim, object, ticket);
}

void ServerLink::release(std::uint64_t object) noexcept {
    try {
        if (local_)
            local_->release_here(object);
        else
            send_alone(FrameKind::release, object, 0);
    } catch (...) {  // no memory: the server counts until this process ends
    }
}

void ServerLink::send_alone(FrameKind kind, std::uint64_t object, std::uint64_t ticket) {
    if (broken()) return;
    std::span body = std::as_bytes(std::span(&ticket, 1));
    std::lock_guard order(sending_);
    try {
        connection_.send(ObjectFrame{{kind, 0, 0, object, {}}, body, {}, {}, {}});
    } catch (const std::system_error&) {
        ::shutdown(connection_.fd(), SHUT_RDWR);
    }
}

void ServerLink::flush(std::uint64_t object) {
    WaitScope waits;
    (void)wait_until([&] { return objects_[object].outstanding == 0; }, {});
    std::lock_guard lock(mutex_);
    std::exception_ptr error = std::exchange(objects_[object].error, nullptr);
    if (objects_[object].outstanding == 0) objects_.erase(object);
    if (error) std::rethrow_exception(error);
}

void ServerLink::note_unseen(std::uint64_t object, const std::exception_ptr& error) noexcept {
    try {
        std::lock_guard lock(mutex_);
        PerObject& state = objects_[object];
        if (!state.error) state.error = error;
    } catch (const std::bad_alloc&) {
    }
}

// --- answers ---------------------------------------------------------------------------------

bool ServerLink::wait_until(const std::function<bool()>& ready, const Deadline& deadline) {
    std::unique_lock lock(mutex_);
    for (bool late = false; !ready(); late = is_over(deadline)) {
        if (late || local_) return ready();
        if (reading_ || broken_) {  // who found the end fails all calls
            if (deadline)
                changed_.wait_until(lock, *deadline);
            else
                changed_.wait(lock);
        } else {
            read_one(lock, deadline);
        }
    }
    return true;
}

void ServerLink::read_one(std::unique_lock<std::mutex>& lock, const Deadline& deadline) {
    reading_ = true;
    lock.unlock();
    try {
        std::optional<Timeout> left;
        if (deadline) left = Timeout(*deadline);
        if (connection_.poll(left)) hand_out(connection_.recv<ObjectFrame>());
    } catch (...) {  // its end, or what no server sends
        break_off();
    }
    lock.lock();
    reading_ = false;
    changed_.notify_all();
}

void ServerLink::hand_out(ObjectFrame frame) {
    if (frame.head.kind == FrameKind::waits) {
        std::lock_guard lock(mutex_);
        auto found = pending_.find(frame.head.request);
        if (found != pending_.end()) found->second.waits = true;
        return;
    }
    take(frame.head.request, [&](CallTask& call) {
        if (frame.head.kind == FrameKind::value)
            call.answer(std::move(frame.bytes));
        else
            call.answer_error(std::move(frame.bytes));
    });
}

// The call is counted as outstanding until what it threw, if nobody asks, is noted.
void ServerLink::take(std::uint64_t request, const std::function<void(CallTask&)>& finish) {
    Ref<CallTask> task;
    {
        std::lock_guard lock(mutex_);
        auto found = pending_.find(request);
        if (found == pending_.end()) return;
        task = std::move(found->second.task);
        pending_.erase(found);
    }
    const std::uint64_t object = task->object();
    finish(*task);
    task = {};
    std::lock_guard lock(mutex_);
    auto state = objects_.find(object);
    if (state != objects_.end() && --state->second.outstanding == 0 && !state->second.error)
        objects_.erase(state);
}

void ServerLink::read_in_background() {
    if (local_) return;
    {
        std::lock_guard lock(mutex_);
        if (background_ || (pending_.empty() && callbacks_.empty())) return;
        background_ = true;
    }
    // It ends when there is nothing more to do, and touches nothing once it has let go of the link.
    make_thread([self = shared_from_this()]() mutable {
        self->serve_callbacks();
        self.reset();
    }).detach();
}

void ServerLink::serve_callbacks() {
    for (;;) {
        (void)wait_until([this] { return pending_.empty() || !callbacks_.empty(); }, {});
        Callbacks now;
        {
            std::lock_guard lock(mutex_);
            now.swap(callbacks_);
            if (now.empty() && (pending_.empty() || broken_)) {
                background_ = false;
                return;
            }
        }
        run_callbacks(std::move(now));
    }
}

void ServerLink::post(std::function<void()> callback) {
    {
        std::lock_guard lock(mutex_);
        callbacks_.push_back(std::move(callback));
        changed_.notify_all();
    }
    read_in_background();
}

// --- the server's end --------------------------------------------------------------------------

void ServerLink::break_off() noexcept {
    std::map<std::uint64_t, Pending> calls;
    {
        std::lock_guard lock(mutex_);
        broken_ = true;
        calls.swap(pending_);
    }
    if (!connection_.closed()) ::shutdown(connection_.fd(), SHUT_RDWR);
    fail_all(std::move(calls));
    std::lock_guard lock(mutex_);
    std::erase_if(objects_, [](const auto& object) { return !object.second.error; });
    for (auto& [object, state] : objects_) state.outstanding = 0;
    changed_.notify_all();
}

void ServerLink::fail_all(std::map<std::uint64_t, Pending> calls) noexcept {
    std::set<std::uint64_t> callers;
    for (auto& [request, call] : calls) {
        try {
            // Of one thread's calls those that wait have begun, and the first other one may have.
            const bool began = call.waits || callers.insert(call.task->caller()).second;
            call.task->lose(lost(*call.task, began));
        } catch (...) {
            call.task->lose(std::current_exception());
        }
    }
}

std::exception_ptr ServerLink::lost(const CallTask& call, bool began) const {
    TaskError::Details details;
    details.pid = server_.pid;
    if (process_ && process_->join_for(std::chrono::seconds(2)))
        details.exit_status = process_->exit_status();
    return std::make_exception_ptr(
        ActorLost(std::move(details), call.object(), call.method(), began));
}

// --- references --------------------------------------------------------------------------------

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
    LinkRegistry& known = registry.get();
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

namespace {
HeldObject& held(const HeldRef& object) {
    if (!object)
        throw std::logic_error(
            "this proxy refers to no object: it is a default one, or was moved from");
    return *object;
}
}  // namespace

TaskRef start_call(const HeldRef& object, const CallKind& kind, const WriteArguments& write) {
    return held(object).link()->call(object->object(), kind, write);
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
void flush_calls(const HeldRef& object) { held(object).link()->flush(object->object()); }
std::uint64_t object_number(const HeldRef& object) { return held(object).object(); }
bool same_object(const HeldRef& a, const HeldRef& b) {
    return a == b ||
           (a && b && a->object() == b->object() && a->server().address == b->server().address);
}

void save_held(const HeldRef& object, OutputArchive& archive) {
    archive(object != nullptr);
    if (!object) return;
    const std::uint64_t ticket = object->link()->pin(object->object());
    archive(object->server(), object->object(), ticket);
}
HeldRef load_held(InputArchive& archive) {
    bool any = false;
    archive(any);
    if (!any) return nullptr;
    ServerName server;
    std::uint64_t object = 0, ticket = 0;
    archive(server, object, ticket);
    std::shared_ptr<ServerLink> link = ServerLink::to(server);
    link->claim(object, ticket);
    return std::make_shared<HeldObject>(std::move(link), object);
}

}  // namespace sidestep::detail

#include <sidestep/server_stats.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <string_view>
#include <utility>

#include <sidestep/actor_lost.hpp>
#include <sidestep/detail/call_times.hpp>

#include "object_client.hpp"
#include "object_server.hpp"
#include "text/demangle.hpp"

namespace sidestep::inline v0 {
namespace {

std::string in_ms(std::chrono::nanoseconds time) {
    return fmt::format("{:.3f}", double(time.count()) / 1e6);
}

}  // namespace

std::string ServerStats::describe() const {
    std::string text = fmt::format("server {}: {} clients, {} calls run, {} wait", pid, clients,
                                   now.size(), waiting);
    if (restarts > 0) text += fmt::format("; started again {} times", restarts);
    text += fmt::format("\n{:>8} {:>9} {:>7} {:>8} {:>12} {:>12}  {}\n", "object", "calls",
                        "failed", "overdue", "mean ms", "longest ms", "what");
    for (const ObjectStats& object : objects) {
        const auto calls = static_cast<std::int64_t>(std::max<std::uint64_t>(object.calls, 1));
        const std::chrono::nanoseconds mean(object.run.count() / calls);
        text += fmt::format("{:>8} {:>9} {:>7} {:>8} {:>12} {:>12}  {}{}{}\n", object.number,
                            object.calls, object.failed, object.overdue, in_ms(mean),
                            in_ms(object.longest_run), object.name, object.name.empty() ? "" : ": ",
                            object.type);
    }
    for (const CallNow& call : now)
        text += fmt::format("for {} ms: {} of object {}, for process {}{}{}\n", in_ms(call.run),
                            call.method, call.object, call.client, call.waits ? ", waits" : "",
                            call.overdue ? ", overdue" : "");
    return text;
}

namespace detail {
namespace {

// "MethodBody<Account, &Account::deposit, double>", "ReadBody<...": the method; "MakeBody<T>".
std::string name_of_body(const TaskEntry& entry) {
    std::string text = describe_entry(entry);
    const bool is_method = text.starts_with("MethodBody<") || text.starts_with("ReadBody<");
    if (const auto name = text.find(", &"); is_method && name != text.npos) {
        const auto begin = name + 3;
        return text.substr(begin, text.find_first_of(",>", begin) - begin);
    }
    return text;
}

std::string name_of_call(const TaskEntry* entry, const char* method) {
    if (method) {  // without its parameters
        const std::string text = readable_method(method, MethodText::name_alone);
        return text.substr(0, text.rfind('('));
    }
    return entry ? name_of_body(*entry) : std::string("(its arguments are read)");
}

}  // namespace

// --- as calls come and go ----------------------------------------------------------------------

ObjectServer::Enlisted::Enlisted(ObjectServer& server, CurrentCall& call)
    : server_(server), call_(call) {
    call.begun_ns = call.arrived_ns = steady_now_ns();
    if (call.state) call.arrived_ns = call.state->arrived_ns;
    std::lock_guard lock(server.running_mutex_);
    call.running_at = server.running_.size();
    server.running_.push_back(&call);
}

ObjectServer::Enlisted::~Enlisted() {
    std::lock_guard lock(server_.running_mutex_);
    CurrentCall* last = server_.running_.back();
    server_.running_[call_.running_at] = last;
    last->running_at = call_.running_at;
    server_.running_.pop_back();
}

void ObjectServer::note_end(const CurrentCall& call, bool failed) noexcept {
    const std::uint64_t end = steady_now_ns(), begun = call.begun_ns;
    const bool overdue = call.state && call.state->overdue;
    if (call.object)
        call.object->counts().add(failed, overdue, end - begun, begun - call.arrived_ns);
    if (!trace_.on()) return;
    try {
        TraceEvent event;
        event.failed = failed || overdue;
        event.track = static_cast<std::uint32_t>(::gettid());
        event.pid = call.caller.pid;
        event.begin_ns = begun;
        event.duration_ns = end - begun;
        event.number = call.request;
        event.outcome = overdue ? "overdue" : failed ? "error" : "value";
        event.label.own =
            std::make_shared<const std::string>(name_of_call(call.entry, call.method));
        trace_.add(event);
    } catch (const std::bad_alloc&) {  // it is not in the trace
    }
}

// --- for who asks ------------------------------------------------------------------------------

ServerStats ObjectServer::stats() {
    ServerStats stats;
    stats.pid = ::getpid();
    if (rules_.actor) stats.restarts = rules_.actor->state.restarts;
    for (const ObjectTable::Found& found : table_.list()) {
        ObjectStats& object = stats.objects.emplace_back();
        found.object->counts().tell(object);
        object.number = found.number;
        object.type = demangle(found.object->type_name());
        object.name = found.exposure ? found.exposure->name : name_.actor;
    }
    std::sort(stats.objects.begin(), stats.objects.end(),
              [](const auto& a, const auto& b) { return a.number < b.number; });
    std::vector<std::shared_ptr<Client>> clients;
    {
        std::lock_guard lock(mutex_);
        for (auto& [number, client] : clients_) clients.push_back(client);
    }
    stats.clients = clients.size();
    for (auto& client : clients) {
        std::lock_guard lock(client->queueing);
        for (auto& [caller, strand] : client->strands) stats.waiting += strand.calls.size();
    }
    list_running(stats);
    return stats;
}

void ObjectServer::list_running(ServerStats& stats) {
    const std::uint64_t now = steady_now_ns();
    std::vector<std::pair<const TaskEntry*, const char*>> called;
    {
        std::lock_guard lock(running_mutex_);
        for (const CurrentCall* call : running_) {
            if (call->state && !call->state->stage.has_begun()) {
                ++stats.waiting;
                continue;
            }
            const std::uint64_t begun = std::min(now, call->begun_ns.load());
            stats.now.push_back({.object = call->number,
                                 .method = {},
                                 .client = call->caller.pid,
                                 .run = std::chrono::nanoseconds(now - begun),
                                 .waits = call->waits,
                                 .overdue = call->state && call->state->overdue});
            called.emplace_back(call->entry, call->method);
        }
    }
    // Without the mutex: it takes its time, and calls come and go.
    for (std::size_t i = 0; i < called.size(); ++i)
        stats.now[i].method = name_of_call(called[i].first, called[i].second);
    std::sort(stats.now.begin(), stats.now.end(),
              [](const auto& a, const auto& b) { return a.run > b.run; });
}

void ObjectServer::start_trace(const std::string& path) {
    const std::string who = name_.is_actor() ? "actor " + name_.actor : std::string("server");
    trace_.start(path, trace_names_, "thread", who.c_str());
}

// Of a client: one of a ManagerServer learns nothing of the others.
void ObjectServer::answer_insight(const std::shared_ptr<Client>& client, const FrameHead& head,
                                  InputArchive& body) {
    if (rules_.actor && rules_.actor->state.over) {
        HeapBuffer bytes;
        OutputArchive archive(bytes);
        archive(rules_.actor->state.last);
        return tell(client, FrameKind::lost, head.request, bytes.bytes());
    }
    reply(client, head, [&](OutputArchive& result) {
        if (rules_.exposed_only) throw NotExposed("what it does", "this server", {});
        if (head.kind == FrameKind::stats) {
            result(stats());
            return;
        }
        std::string path;
        body(path);
        path.empty() ? stop_trace() : start_trace(path);
    });
}

}  // namespace detail

}  // namespace sidestep

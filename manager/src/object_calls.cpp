// The calls of an ObjectServer: in which thread each runs, what may be called, and what is
// answered.
#include "object_server.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include <sidestep/actor_lost.hpp>
#include <sidestep/detail/call_times.hpp>
#include <sidestep/detail/forced_unwind.hpp>
#include <sidestep/detail/printed_output.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/this_task.hpp>

#include "answer_run.hpp"
#include "insist.hpp"
#include "object_client.hpp"
#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {
namespace {

thread_local ObjectServer::CurrentCall* current_call = nullptr;

// The call is this thread's.
class CallScope {
  public:
    explicit CallScope(ObjectServer::CurrentCall& call) : outer_(current_call) {
        call.outer = outer_;
        current_call = &call;
    }
    ~CallScope() { current_call = outer_; }
    CallScope(const CallScope&) = delete;
    CallScope& operator=(const CallScope&) = delete;

  private:
    ObjectServer::CurrentCall* const outer_;
};

[[maybe_unused]] const bool registered_error = register_exception<NotExposed>();

std::vector<std::string> names_of(const Exposure& exposure) {
    std::vector<std::string> names;
    for (const ExposedMethod& method : exposure.methods)
        names.push_back(readable_method(method.name));
    return names;
}

}  // namespace

// "sidestep::detail::MethodTag<int (Board::*)() const, &(Board::take() const)>*" is a type and a
// name, with parameters only where the compiler wants them: "int Board::take() const".
std::string readable_method(const char* method_name, MethodText wanted) {
    std::string text = demangle(method_name);
    const std::size_t begin = text.find('<'), comma = text.rfind(", &"), end = text.rfind('>');
    if (begin == text.npos || comma == text.npos || end == text.npos || end < comma) return text;
    const std::string type = text.substr(begin + 1, comma - begin - 1);
    std::string name = text.substr(comma + 3, end - comma - 3);
    if (name.starts_with('(')) name.erase(0, 1);
    name = name.substr(0, name.find('('));
    const std::size_t star = type.find("::*)"), open = type.rfind('(', star);
    if (star == type.npos || open == type.npos) return name;
    if (wanted == MethodText::name_alone) return name + type.substr(star + 4);
    return type.substr(0, open) + name + type.substr(star + 4);
}

ObjectServer::CurrentCall* ObjectServer::current_or_none() noexcept { return current_call; }
void ObjectServer::let_out_what_is_printed() noexcept {
    if (current_call && !current_call->server.rules_.exposed_only) (void)flush_printed();
}
bool ObjectServer::runs_here() const noexcept {
    for (const CurrentCall* call = current_call; call; call = call->outer)
        if (&call->server == this) return true;
    return false;
}
ObjectServer::CurrentCall& ObjectServer::current() {
    if (!current_call) throw std::logic_error("no call of an object runs in this thread");
    return *current_call;
}

// The object is looked up now: a call counts, until it has run, as a reference to it.
void ObjectServer::queue_call(const std::shared_ptr<Client>& client, ObjectFrame frame) {
    if (ending_) return;
    const FrameHead head = frame.head;
    const auto state = std::make_shared<CallState>();
    state->arrived_ns = steady_now_ns();
    Call call{.frame = std::move(frame), .target = {}, .refused = nullptr, .state = state};
    call.lost = find_lost(*client, head.request);
    try {
        if (head.object != 0 && !call.lost) call.target = table_.find(head.object);
    } catch (...) {
        call.refused = std::current_exception();
    }
    try {
        if (head.timeout != 0 && !call.lost) watch_timeout(client, head, state);
        add_to_strand(client, std::move(call));
    } catch (const SerializationError&) {  // no client of ours
        clock_.remove(state->due);
        throw;
    } catch (const std::logic_error&) {  // the server has ended meanwhile
    } catch (...) {                      // there is no thread for it, or no memory
        clock_.remove(state->due);
        if (state->answered.exchange(true)) return;
        Answer answer;
        refuse(std::current_exception(), answer);
        tell(client, answer.kind, head.request, answer.bytes.bytes());
    }
}

// What throws has added nothing, but where the server has ended.
void ObjectServer::add_to_strand(const std::shared_ptr<Client>& client, Call call) {
    const std::uint64_t request = call.frame.head.request, caller = call.frame.head.caller;
    std::lock_guard lock(client->queueing);
    if (client->unanswered >= kMostUnanswered)
        throw SerializationError("more calls wait than a client of ours sends");
    ++client->unanswered;
    try {
        client->calls[request] = call.state;
        Strand& strand = client->strands[caller];
        strand.calls.push_back(std::move(call));
        if (!strand.has_thread && !run_here(*client, caller)) start_strand(client, caller);
        strand.has_thread = true;
    } catch (const std::logic_error&) {
        throw;
    } catch (...) {  // without a thread, it is the strand's only call
        auto strand = client->strands.find(caller);
        if (strand != client->strands.end() && !strand->second.has_thread)
            client->strands.erase(strand);
        client->calls.erase(request);
        --client->unanswered;
        throw;
    }
}

void ObjectServer::start_strand(const std::shared_ptr<Client>& client, std::uint64_t caller) {
    callers_.run([this, client, caller] { run_strand(client, caller); });
}

void ObjectServer::run_strand(const std::shared_ptr<Client>& client, std::uint64_t caller) {
    AnswerRun answers(*this, *client, caller);
    for (;;) {
        Call call;
        {
            std::lock_guard lock(client->queueing);
            auto strand = client->strands.find(caller);
            if (strand->second.calls.empty()) {
                client->strands.erase(strand);
                break;
            }
            call = std::move(strand->second.calls.front());
            strand->second.calls.pop_front();
            call.state->running = true;
            answers.look_ahead(call, strand->second.calls);
        }
        answers.begin();
        if (run_call(client, std::move(call), answers.hold())) return;
    }
    answers.end();
}

void ObjectServer::let_next_begin(CurrentCall& call) {
    if (call.client == self_ || call.waits.exchange(true)) return;
    // Told first: of what comes after it the client knows that it may have begun.
    call.client->send(FrameKind::waits, call.request, {});
    const std::uint64_t caller = call.caller.thread;
    std::lock_guard lock(call.client->queueing);
    pass_reading_on(call.client);
    auto strand = call.client->strands.find(caller);
    if (strand->second.calls.empty()) {
        call.client->strands.erase(strand);
        return;
    }
    try {
        start_strand(call.client, caller);
    } catch (...) {  // there is no thread: the next one begins when this one has ended
        call.waits = false;
    }
}

// True: it has waited, and its strand has another thread.
bool ObjectServer::run_call(const std::shared_ptr<Client>& client, Call call, bool may_hold) {
    if (ending_) return false;
    const FrameHead head = call.frame.head;
    Answer answer;
    CurrentCall current{
        *this,        client,    {client->number, head.caller, client->pid}, call.target.object,
        head.request, call.state};
    current.may_hold = may_hold;
    if (call.lost)
        tell_lost(*call.lost, answer);
    else if (call.refused)
        refuse(call.refused, answer);
    else
        try {
            execute(current, head, call.target.exposure.get(), call.frame.bytes,
                    &call.frame.incoming, answer);
        } catch (...) {  // pthread_exit(): this thread goes, and nothing else
            refuse(std::make_exception_ptr(ThreadExit()), answer);
            end_run(current, answer);
            if (!current.waits) hand_on(client, head.caller);
            throw;
        }
    call = {};  // what it refers to goes before the answer, which the client may wait for
    end_run(current, answer);
    return current.waits;
}

// False: there is no memory for that.
bool ObjectServer::try_answer(CurrentCall& call, const Answer& answer) noexcept {
    if (!call.may_hold || call.waits)
        return call.client->try_send(answer.kind, call.request, answer.bytes.bytes());
    if (!call.client->hold({answer.kind, call.request, 0, 0, {}}, answer.bytes.bytes()))
        return false;
    watch_held(*call.client);
    return true;
}

void ObjectServer::end_run(CurrentCall& call, Answer& answer) {
    call.object = nullptr;
    if (call.state->overdue) {
        answer.kind = FrameKind::overdue;
        answer.bytes.clear();
        call.given_up = false;
    }
    if (!call.given_up && !call.state->answered.exchange(true) && !try_answer(call, answer)) {
        refuse(std::make_exception_ptr(std::bad_alloc()), answer);  // that takes less
        call.client->send(answer.kind, call.request, answer.bytes.bytes());
    }
    unbegin_call(call);
    end_call(*call.client, call.request, *call.state);
}

// Throws NotExposed for what a client of a ManagerServer may not call.
TaskEntry::Run ObjectServer::body_of(CurrentCall& call, const FrameHead& head,
                                     const Exposure* exposure, InputArchive& arguments) const {
    const bool is_stranger = rules_.exposed_only && call.client != self_;
    if (head.kind == FrameKind::call) {
        if (is_stranger && !exposure) throw NotExposed("to make an object", "this server", {});
        if (is_stranger && !exposure->functions)
            throw NotExposed("a function", fmt::format("the object \"{}\"", exposure->name),
                             names_of(*exposure));
        call.entry = &require_entry(head.task, "the call's method");
        return call.entry.load()->run;
    }
    std::string name;
    arguments(name);
    if (!exposure) throw NotExposed("this method", fmt::format("object {}", head.object), {});
    for (const ExposedMethod& method : exposure->methods)
        if (name == method.name) {
            call.method = method.name;
            return method.run;
        }
    throw NotExposed("this method", fmt::format("the object \"{}\"", exposure->name),
                     names_of(*exposure));
}

void ObjectServer::execute(CurrentCall& call, const FrameHead& head, const Exposure* exposure,
                           std::span<const std::byte> body, FdSource* fds, Answer& answer) {
    const CallScope scope(call);
    call.number = head.object;
    std::optional<Enlisted> enlisted;
    std::optional<TaskScope> stoppable;
    if (call.state) {
        TaskContext context;
        context.stop_flag = &call.state->stop;
        stoppable.emplace(context);
    }
    try {
        enlisted.emplace(*this, call);
        begin_call(call);
        InputArchive arguments(body, fds);
        OutputArchive result(answer.bytes);
        body_of(call, head, exposure, arguments)(arguments, result);
        answer.kind = call.answers;
    } catch (const GivenUp&) {
        call.given_up = true;
        refuse(std::current_exception(), answer);
    } catch (...) {
        pass_on_forced_unwind();
        refuse(std::current_exception(), answer);
    }
    if (enlisted && !call.given_up) note_end(call, answer.kind != FrameKind::value);
}

void ObjectServer::refuse(const std::exception_ptr& why, Answer& answer) {
    answer.kind = FrameKind::error;
    answer.bytes.clear();
    try {
        OutputArchive archive(answer.bytes);
        try {
            std::rethrow_exception(why);
        } catch (...) {
            save_current_exception(archive,
                                   fmt::format("  in the server of objects {}\n", ::getpid()));
        }
    } catch (...) {  // no memory: that is what the client is told, when there is some for it
        insist_on_memory([&] {
            answer.bytes.clear();
            OutputArchive archive(answer.bytes);
            try {
                throw std::bad_alloc();
            } catch (const std::bad_alloc&) {
                save_current_exception(archive, {});
            }
        });
    }
}

void ObjectServer::call_here(const FrameHead& head, std::span<const std::byte> body,
                             std::span<const int> fds, CallTask& task) {
    Answer answer;
    try {
        IncomingFds copies;
        for (int fd : fds) copies.add(DupFd::duplicate_of(fd));
        ObjectTable::Found found =
            head.object != 0 ? table_.find(head.object) : ObjectTable::Found();
        CurrentCall current{*this, self_, {0, head.caller, ::getpid()}, std::move(found.object)};
        execute(current, head, found.exposure.get(), body, &copies, answer);
    } catch (...) {
        pass_on_forced_unwind();
        refuse(std::current_exception(), answer);
    }
    auto bytes = answer.bytes.bytes();
    task.answer({bytes.begin(), bytes.end()}, answer.kind);
}

void enter_here(Hosted& object, Entry entry) {
    if (object.try_enter(entry)) return;
    ObjectServer::CurrentCall& call = ObjectServer::current();
    ObjectServer::unbegin_call(call);
    object.enter(entry);
    try {
        ObjectServer::begin_call(call);
        call.begun_ns = steady_now_ns();
    } catch (...) {
        object.leave();
        throw;
    }
}

bool wait_here(const std::function<bool()>& ready, const Deadline& deadline) {
    ObjectServer::CurrentCall& call = ObjectServer::current();
    auto client = call.client;
    // Its locks were freed already, or are next (forget()): it may take none now.
    if (client->gone) throw GivenUp();
    if (ready()) return true;
    if (is_over(deadline)) return false;
    // Outside: a client that does not read what it is told holds up its own calls only.
    if (!call.waits) call.object->outside([&] { call.server.let_next_begin(call); });
    ObjectServer& server = call.server;
    WaitScope waits;
    ObjectServer::Waiting here(server, call.object);
    const bool done = call.object->wait(ready, deadline, [&] { return server.has_left(*client); });
    if (client->gone || (!done && server.has_left(*client))) throw GivenUp();
    return done;
}

}  // namespace sidestep::detail

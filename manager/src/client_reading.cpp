// Who reads what a client sends.
//
// Its reader takes one frame after the other. If that is a call, nothing has come behind it, and
// its strand has no thread, then the reader runs it, and reads on afterwards: so a call that is
// waited for costs one change of threads on its way here, not two. If it takes long, or waits, the
// reading passes on to another thread, and the first one ends with its strand.
#include "object_server.hpp"

#include <chrono>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

#include "insist.hpp"
#include "object_client.hpp"

namespace sidestep::inline v0::detail {
namespace {
// A call that is seen to run at two looks in a row takes long.
constexpr std::chrono::milliseconds kBetweenLooks{1};
}  // namespace

void ObjectServer::read(const std::shared_ptr<Client>& client) {
    while (take_next(client))
        if (client->runs_next && !go_on_here(client)) return;
    if (!client->has_socket()) lose_descriptors();
    client->cut();
    forget(client);
    ring();
}

// False: it has come to its end, or sends what no client of ours does.
bool ObjectServer::take_next(const std::shared_ptr<Client>& client) {
    try {
        ObjectFrame frame = client->next_frame(rules_.max_call_bytes);
        const FrameHead head = frame.head;
        try {
            if (frame.lacks_memory) throw std::bad_alloc();
            receive(client, std::move(frame));
        } catch (const std::bad_alloc&) {  // that costs the client this request, and no more
            Answer answer;
            refuse(std::current_exception(), answer);
            tell(client, answer.kind, head.request, answer.bytes.bytes());
        }
        return true;
    } catch (...) {
        return false;
    }
}

// With the client's `queueing` held, by its reader, which is to call go_on_here(). False: another
// thread is to run that strand.
bool ObjectServer::run_here(Client& client, std::uint64_t caller) noexcept {
    if (client.connection.buffered()) return false;
    try {
        watch_readers();  // from here on there is a thread for that
        callers_.enter();
    } catch (...) {  // no memory, no thread, or the server ends
        return false;
    }
    client.runs_next = caller;
    return true;
}

// True: it is still this thread that reads.
bool ObjectServer::go_on_here(const std::shared_ptr<Client>& client) {
    const std::uint64_t caller = *std::exchange(client->runs_next, std::nullopt);
    std::uint64_t run = 0;
    {
        std::lock_guard lock(client->queueing);
        run = client->run = ++client->last_run;
    }
    insist_on_memory([&] { watch_readers(); });  // again: a look may have been between
    try {
        run_strand(client, caller);
    } catch (...) {  // pthread_exit(): this thread goes
        try {
            insist([&] {
                std::lock_guard lock(client->queueing);
                if (client->run != run) return;
                readers_.run([this, client] { read(client); });
                client->run = 0;
            });
        } catch (const std::logic_error&) {  // the server has ended
        }
        callers_.leave();
        throw;
    }
    callers_.leave();
    std::lock_guard lock(client->queueing);
    if (client->run != run) return false;
    client->run = 0;
    return true;
}

// With its `queueing` held: if its reader runs a call, another thread reads from now on. If there
// is none, the reader does when the call has ended, or the next look finds one.
void ObjectServer::pass_reading_on(const std::shared_ptr<Client>& client) noexcept {
    if (client->run == 0) return;
    try {
        readers_.run([this, client] { read(client); });
        client->run = 0;
    } catch (...) {
    }
}

// While readers run calls, or answers are held, somebody looks at them.
void ObjectServer::watch_readers() {
    if (readers_watched_.exchange(true)) return;
    try {
        (void)clock_.add(std::chrono::steady_clock::now() + kBetweenLooks,
                         [this] { look_at_readers(); });
    } catch (...) {
        readers_watched_ = false;
        throw;
    }
}

// Behind a hold().
void ObjectServer::watch_held(Client& client) noexcept {
    if (readers_watched_) return;
    try {
        watch_readers();
    } catch (...) {  // no memory, or no thread
        client.flush();
    }
}

// With the mutex held. True: there are some. Those that were there before are sent now, in another
// thread: it may have to wait until the client reads.
bool ObjectServer::look_at_held(const std::shared_ptr<Client>& client) noexcept {
    std::unique_lock lock(client->sending, std::try_to_lock);
    if (!lock) return true;  // somebody sends, or adds one
    if (client->held.empty()) return false;
    if (std::exchange(client->holdings_seen, client->holdings) != client->holdings) return true;
    try {
        callers_.run([client] { client->flush(); });
    } catch (...) {  // no memory, or no thread: at the next look
    }
    return true;
}

void ObjectServer::look_at_readers() noexcept {
    readers_watched_ = false;  // first: who begins from here on sees to the next look
    bool any = false;
    {
        std::lock_guard lock(mutex_);
        for (auto& [number, client] : clients_) {
            any |= look_at_held(client);
            std::lock_guard calls(client->queueing);
            if (client->run == 0) continue;
            any = true;
            if (std::exchange(client->run_seen, client->run) == client->run)
                pass_reading_on(client);
        }
    }
    if (any) insist_on_memory([&] { watch_readers(); });
}

}  // namespace sidestep::detail

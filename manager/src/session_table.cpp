#include "session_table.hpp"

#include <signal.h>

#include <algorithm>
#include <cerrno>

namespace sidestep::inline v0::detail {
namespace {

// Not so of one whose number is another's by now: that one is waited for.
bool has_ended(int pid) { return pid > 0 && ::kill(pid, 0) < 0 && errno == ESRCH; }

}  // namespace

std::shared_ptr<SessionCalls> SessionTable::open(std::uint64_t session, int pid) {
    std::lock_guard lock(mutex_);
    auto known = sessions_.find(session);
    if (known == sessions_.end()) {
        if (has_ended(pid)) return nullptr;
        if (sessions_.size() >= next_look_) forget_ended();
        known = sessions_.emplace(session, Session{std::make_shared<SessionCalls>(), pid, 0}).first;
    }
    known->second.opened = ++opened_;
    return known->second.calls;
}

// With the mutex held.
void SessionTable::forget_ended() {
    std::map<std::uint64_t, std::uint64_t> unseen;  // by when they were opened
    std::erase_if(sessions_, [&](const auto& known) {
        const Session& session = known.second;
        if (session.has_connection()) return false;
        if (session.pid <= 0) unseen.emplace(session.opened, known.first);
        return has_ended(session.pid);
    });
    for (; unseen.size() > kMostUnseen; unseen.erase(unseen.begin()))
        sessions_.erase(unseen.begin()->second);
    next_look_ = std::max(kLeastLook, 2 * sessions_.size());
}

std::size_t SessionTable::size() {
    std::lock_guard lock(mutex_);
    return sessions_.size();
}

}  // namespace sidestep::detail

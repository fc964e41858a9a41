// Found are: whoever is in the child's process group or session, if it leads one, and descendants
// whose chain of parents is unbroken. All are stopped before the next look, so that the tree cannot
// grow while it is searched.
//
// No number is trusted that may be someone else's by now. The child is unreaped, which keeps its
// number and that of its group: the group is signalled as one, so that it may be larger than the
// limit on descriptors. Whoever is outside of it is looked at again once its pidfd is open.
//
// Without /proc, or with that of another pid namespace, only the group is found.
//
// Zombies count: a process whose main thread has ended is one to all appearances, while its other
// threads go on.
#include "spawn/kill_tree.hpp"

#include <dirent.h>
#include <fmt/format.h>
#include <signal.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "sys/error.hpp"
#include "sys/own_proc.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::subprocess {
namespace {

struct Relations {
    int parent = 0;
    int group = 0;
    int session = 0;
};

// Any other error of a look at a process says that it has ended. This one leaves it unknown.
void check_room(int error, const std::string& call) {
    if (is_shortage(error))
        throw_errno(error, "descendants of a killed child may be left, no room to look: " + call);
}

// Those that /proc knows, if it is that of our numbers.
std::vector<int> all_pids() {
    if (!proc_is_ours()) return {};  // the group is all that is known
    std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc"), closedir);
    if (!folder) {
        int error = errno;
        check_room(error, "opendir(/proc)");
        return {};
    }
    std::vector<int> pids;
    while (dirent* entry = readdir(folder.get()))
        if (int pid = std::atoi(entry->d_name); pid > 1) pids.push_back(pid);
    return pids;
}

std::optional<Relations> relations_of(int pid) {
    std::string path = fmt::format("/proc/{}/stat", pid);
    auto stat = sys::read_file(path.c_str());
    if (!stat) {
        int error = errno;
        check_room(error, fmt::format("open({})", path));
        return {};
    }
    std::size_t name_end = stat->rfind(')');  // the name may contain anything
    if (name_end == std::string::npos) return {};
    Relations relations;
    int fields = std::sscanf(stat->c_str() + name_end + 1, " %*c %d %d %d", &relations.parent,
                             &relations.group, &relations.session);
    if (fields != 3) return {};
    return relations;
}

// Nothing if there is no such process.
sys::ProcessHandle<Fd> open_process(int pid) {
    int error = 0;
    sys::ProcessHandle<Fd> process = sys::find(pid, error);
    check_room(error, fmt::format("pidfd_open({})", pid));
    return process;
}

class Tree {
  public:
    Tree(int pid, bool leads_group, bool leads_session)
        : root_(pid), leads_group_(leads_group), leads_session_(leads_session) {}

    // Stops those that were not known yet; false if there were none.
    bool stop_new_members() {
        if (leads_group_) ::kill(-root_, SIGSTOP);
        bool found = false;
        for (int pid : all_pids())
            if (pid != root_ && !outside_.contains(pid)) found |= stop_member(pid);
        return found;
    }

    void kill() noexcept {
        if (leads_group_ && ::kill(-root_, SIGKILL) < 0 && errno != ESRCH) kill_group_singly();
        // What cannot be signalled became someone else (setuid): not ours to kill.
        for (auto& [pid, process] : outside_) (void)process.try_signal(SIGKILL);
    }

    // Waits for the ends of the others in the child's group and session. False at the deadline.
    bool wait_for_others(const sys::Deadline& deadline) const {
        for (bool found = true; found;) {
            found = false;
            for (int pid : all_pids()) {
                if (pid == root_ || !is_in_group_or_session(pid)) continue;
                auto process = open_process(pid);
                if (!process || !is_in_group_or_session(pid) || process.has_ended()) continue;
                if (!process.wait_for_end(deadline)) return false;
                found = true;  // it may have started others
            }
        }
        return true;
    }

  private:
    // They are stopped, and must not stay so because they cannot be signalled as one.
    void kill_group_singly() noexcept {
        for (int pid : in_group_) try {
                sys::ProcessHandle<Fd> process = open_process(pid);
                if (process && is_in_group(pid)) (void)process.try_signal(SIGKILL);
            } catch (const std::exception&) {  // no room to look
            }
    }
    bool in_group(const Relations& relations) const {
        return leads_group_ && relations.group == root_;
    }
    bool is_in_group(int pid) const {
        auto relations = relations_of(pid);
        return relations && in_group(*relations);
    }
    bool in_session(const Relations& relations) const {
        return leads_session_ && relations.session == root_;
    }
    bool is_in_group_or_session(int pid) const {
        auto relations = relations_of(pid);
        return relations && (in_group(*relations) || in_session(*relations));
    }

    // Whether this is the number of a member now, and not only was.
    bool is_member(int pid) const {
        if (pid == root_) return true;
        if (auto known = outside_.find(pid); known != outside_.end())
            return !known->second.has_ended();
        return in_group_.contains(pid) && is_in_group(pid);
    }

    bool belongs_outside(const Relations& relations) const {
        return in_session(relations) || is_member(relations.parent);
    }

    bool stop_member(int pid) {
        auto relations = relations_of(pid);
        if (!relations) return false;
        if (in_group(*relations)) return in_group_.insert(pid).second;
        if (!belongs_outside(*relations)) return false;
        auto process = open_process(pid);
        relations = relations_of(pid);
        if (!process || !relations || !belongs_outside(*relations)) return false;
        auto known = outside_.emplace(pid, std::move(process)).first;  // before it is stopped
        (void)known->second.try_signal(SIGSTOP);
        return true;
    }

    int root_;
    bool leads_group_;
    bool leads_session_;
    std::set<int> in_group_;  // who was seen there: they are stopped and killed with it
    std::map<int, sys::ProcessHandle<Fd>> outside_;  // the others
};

}  // namespace

void kill_process_tree(const sys::ProcessHandle<Fd>& child, bool leads_group, bool leads_session) {
    // Its number may be someone else's: it was reaped, but not by us (SIGCHLD is ignored).
    if (child.peek().lost()) return;
    (void)child.try_signal(SIGSTOP);
    Tree tree(child.pid, leads_group, leads_session);
    auto kill_known = [&]() noexcept {
        tree.kill();
        return child.try_signal(SIGKILL);
    };
    try {
        for (int round = 0; round < 100 && tree.stop_new_members(); ++round) {
        }
    } catch (...) {
        (void)kill_known();  // or it would stay stopped for ever
        throw;
    }
    // Of the child itself that is told: who waits for its end would do so for as long as it likes.
    if (kill_known() == EPERM) (void)child.signal(SIGKILL);
}

bool wait_for_group(int pid, bool leads_session, const sys::Deadline& deadline) {
    if (!proc_is_ours()) {
        // Nobody can tell: they get the time that they may have, and then it is as if they were
        // there. (Where that has no end they are not waited for.)
        if (deadline) std::this_thread::sleep_until(*deadline);
        return !deadline;
    }
    try {
        return Tree(pid, true, leads_session).wait_for_others(deadline);
    } catch (const std::exception&) {
        return false;  // nobody can tell: as if they were there
    }
}

}  // namespace sidestep::subprocess

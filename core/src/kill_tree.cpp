// Killing a child with all its descendants.
//
// Every process that is found is stopped before the next look, so that the tree cannot grow while
// it is searched; what a look finds is checked again once its pidfd is open, so that a reused pid
// is never hit. Found are: descendants whose chain of parents is unbroken, and whoever is in the
// child's process group or session, if it leads one.
#include <dirent.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <system_error>

#include "popen_state.hpp"

namespace sidestep::subprocess {
namespace {

struct Relations {
    int parent = 0;
    int group = 0;
    int session = 0;
};

std::optional<Relations> relations_of(int pid) {
    auto stat = sys::read_file(("/proc/" + std::to_string(pid) + "/stat").c_str());
    if (!stat) return {};
    std::size_t name_end = stat->rfind(')');  // the name may contain anything
    if (name_end == std::string::npos) return {};
    Relations relations;
    char state = 0;
    int fields = std::sscanf(stat->c_str() + name_end + 1, " %c %d %d %d", &state,
                             &relations.parent, &relations.group, &relations.session);
    if (fields != 4 || state == 'Z' || state == 'X') return {};
    return relations;
}

void send(int pidfd, int signal) noexcept {
    try {
        sys::pidfd_send_signal(pidfd, signal);
    } catch (const std::system_error&) {
        // A descendant that became someone else (setuid): not ours to kill.
    }
}

class Tree {
  public:
    Tree(int pid, bool leads_group, bool leads_session)
        : root_(pid), leads_group_(leads_group), leads_session_(leads_session) {}

    // Stops those that were not known yet; false if there were none.
    bool stop_new_members() {
        std::unique_ptr<DIR, int (*)(DIR*)> folder(opendir("/proc"), closedir);
        bool found = false;
        while (dirent* entry = folder ? readdir(folder.get()) : nullptr) {
            int pid = std::atoi(entry->d_name);
            if (pid > 1 && pid != root_ && !members_.contains(pid)) found |= stop_member(pid);
        }
        return found;
    }

    void kill() {
        // A group that the child leads keeps its number reserved while the child is unreaped.
        if (leads_group_) ::kill(-root_, SIGKILL);
        for (auto& [pid, pidfd] : members_) send(pidfd.get(), SIGKILL);
    }

  private:
    bool belongs(int pid) const {
        auto relations = relations_of(pid);
        if (!relations) return false;
        return relations->parent == root_ || members_.contains(relations->parent) ||
               (leads_group_ && relations->group == root_) ||
               (leads_session_ && relations->session == root_);
    }

    bool stop_member(int pid) {
        if (!belongs(pid)) return false;
        try {
            Fd pidfd = sys::pidfd_open(pid);
            if (!belongs(pid)) return false;
            send(pidfd.get(), SIGSTOP);
            members_.emplace(pid, std::move(pidfd));
            return true;
        } catch (const std::system_error&) {
            return false;  // ended meanwhile
        }
    }

    int root_;
    bool leads_group_;
    bool leads_session_;
    std::map<int, Fd> members_;
};

}  // namespace

void kill_process_tree(int pid, int pidfd, bool leads_group, bool leads_session) {
    send(pidfd, SIGSTOP);
    Tree tree(pid, leads_group, leads_session);
    for (int round = 0; round < 100 && tree.stop_new_members(); ++round) {
    }
    tree.kill();
    send(pidfd, SIGKILL);
}

}  // namespace sidestep::subprocess

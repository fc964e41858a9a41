// The names of SharedMemory blocks in /dev/shm: a folder where every user of the machine makes
// names, locks files that are open to it, and locks the folder.
//
// N1 The link ".sidestep.<name>", "<creator>-<inode>", is there before the name and goes after it.
//    Once the name is there the link's time of modification is set to 0. So a link of time 0 whose
//    name is gone, or is another file's, is left over, though its creator lives.
// N2 Who uses a block through a SharedMemory holds a shared flock on it.
// N3 A name is stale if its link's creator is dead, its inode is the link's, and the exclusive
//    flock is to be had.
// N4 Names and links are removed by the holder of the folder's flock: who read a link removes that
//    one, not its successor's. Killed in between: the link is still there, and tells the next one.
// N5 Nobody removes what another user made: link and file belong to the caller. Root is no
//    exception: anybody can make a link that names anybody's file.
// N6 A name is removed only if its file is the one that is meant. By name alone it is whoever's has
//    the name by now: Python's tracker unlinks what it only opened.
//
// Errors: thrown as std::system_error, but for what says noexcept.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "memory/participant.hpp"
#include "sys/fd.hpp"

namespace sidestep::inline v0 {

// A block's name with its paths: they are there before they are needed at its end.
struct BlockName {
    BlockName() = default;
    explicit BlockName(std::string its_name);  // throws std::invalid_argument

    std::string name, path, mark;
};

// What the link of a block says that this process makes.
std::string mark_text(ino_t inode);

// Gives an open file its name; with a link that says `text`, or with none. False: the name is taken
// (what was left of a dead process's block has been removed).
bool publish_name(const Fd& fd, const BlockName& name, const std::string& text);
// Removes the name if it is that file's, and the link if it says `text`.
void withdraw_name(const BlockName& name, ino_t inode, const std::string& text) noexcept;
// Removes the name, whoever of this user made it, and its link. ENOENT: it is gone, or is another
// file's.
void remove_name(const BlockName& name, ino_t inode);
// Removes the name if it is stale, and its link if it is left over.
void clear_leftover(const BlockName& name);
// Who keeps the name from being made, where that can be told: "(...)", or nothing.
std::string who_has(const BlockName& name);

// The block of that name, N2. No descriptor: there is none. Throws EPERM if it is another user's,
// unless that is allowed.
Fd open_block(const BlockName& name, bool any_owner);

// Removes stale names, and links that are left over; returns the names. `part`: of the next few
// hundred entries of the folder only, since everybody can fill it.
enum class Look { part, all };
std::vector<std::string> sweep_names(Look look);

}  // namespace sidestep

// SharedMemory: a block of memory with a name, open to any program of the same user; to Python's
// multiprocessing.shared_memory among them, in both directions.
//
// Ownership:  the process that creates a block owns its name: the name goes with the last of the
//             creator's handles, or with unlink(), called by anybody; with .keep_name = true it
//             stays until unlink(). Opening never owns. The memory itself lives for as long as
//             someone has it mapped. Where no other program is concerned, RawArray has no name to
//             care for.
// Threads:    a handle is a small value; its copies are one mapping. Thread-safe, but for close().
// Fork:       a forked child has the mapping, and does not own the name.
// Peer death: a name left by a creator that was killed is removed by the next SharedMemory of that
//             name that is made or opened, by one of the next of any name, or by
//             remove_stale_names(), unless another process still has a handle of it. (How it is
//             known: a symbolic link ".sidestep.<name>" beside it names the creator.) No process
//             watches: there is none to be killed in its turn. Nobody removes another user's names;
//             not root either.
// Trust:      the block's user. Every process of the user who made it, and root, can read and
//             change it, and truncate its file: who then touches what was cut off is ended by
//             SIGBUS. The kernel offers nothing against that for a file with a name: programs that
//             do not trust each other send copies over a Connection. Other users can neither open a
//             block (its mode is 0600) nor be taken for its maker: a block of another user's is not
//             opened, unless by .any_owner. What they can do is to have a name first (EEXIST, and
//             its owner in the message), and to keep names of the dead from being removed for as
//             long as they hold the folder locked. One that arrives in a message is refused
//             in the same way, unless it is root's; in a task's arguments the sender has decided.
// Errors:     std::invalid_argument for a bad name or size; std::system_error: EEXIST, ENOENT, or
//             ENOSPC if /dev/shm is full (memory is reserved at once: no SIGBUS for want of it),
//             EFBIG beyond `ulimit -f`; of opening: EPERM for another user's block, EWOULDBLOCK if
//             somebody has kept it locked (flock) for two seconds.
// Limits:     names of up to 245 bytes, without NUL and '/'.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <sidestep/detail/travel.hpp>

namespace sidestep::inline v0 {

struct CreateOnly {};
struct OpenOnly {};
struct OpenOrCreate {};
inline constexpr CreateOnly create_only;
inline constexpr OpenOnly open_only;
inline constexpr OpenOrCreate open_or_create;

struct SharedMemoryOptions {
    bool keep_name = false;  // of making: the name outlives its creator, until unlink()
    bool any_owner = false;  // of opening: another user's block too; see Trust
};

class SharedMemory {
  public:
    // A new block of zeros; without a name, one is made up: "psm_" and eight hexadecimal digits.
    SharedMemory(CreateOnly, std::size_t size, SharedMemoryOptions options = {});
    SharedMemory(CreateOnly, std::string name, std::size_t size, SharedMemoryOptions options = {});
    // One that is there. Its size is the file's.
    SharedMemory(OpenOnly, std::string name, SharedMemoryOptions options = {});
    // Opens it, or creates it if it is not there. Who is in the middle of creating or removing it
    // is waited for, two seconds at most (EEXIST then: it was stopped there).
    SharedMemory(OpenOrCreate, std::string name, std::size_t size,
                 SharedMemoryOptions options = {});
    explicit SharedMemory(detail::Blank) noexcept {}

    const std::string& name() const;
    std::size_t size() const;
    std::span<std::byte> bytes() const;

    // Ends the use of the memory by this handle and its copies: bytes() throws std::logic_error
    // from then on, and spans that were had before are invalid. The name stays.
    void close();
    // Removes the name. Throws std::system_error (ENOENT) if it is gone, or another block has it.
    void unlink();

    // Travels as a descriptor where those can travel, else by its name.
    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    struct Block;
    Block& block() const;
    std::shared_ptr<Block> block_;
};

// Removes the names that creators left who were killed, and whose blocks nobody uses; returns them.
// Every SharedMemory that is made or opened does this for a part of /dev/shm: call it where none
// is, and the memory is wanted back.
std::vector<std::string> remove_stale_names();

template <>
inline constexpr bool detail::needs_fds<SharedMemory> = false;

// "SharedMemory(psm_12ab34cd, 4096 bytes)"
std::string to_string(const SharedMemory& memory);

}  // namespace sidestep

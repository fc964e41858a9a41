#include "actor_board.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0::detail {

ActorBoard::ActorBoard(bool checkpoints)
    : memory_(Segment::create("sidestep-actor", sizeof(Shared))) {
    memory_.close_descriptor();
    if (!checkpoints) return;
    for (Fd& file : files_) file = sys::growing_memfd("sidestep-checkpoint");
}

ActorBoard::Place ActorBoard::begin(const CallName& call) {
    Place place = 0;
    {
        std::lock_guard lock(mutex_);
        if (!free_.empty()) {
            place = free_.back();
            free_.pop_back();
        } else if (used_ < kMostBegun) {
            free_.reserve(used_ + 1);  // end() needs no memory then
            place = used_++;
        } else {
            throw std::runtime_error(fmt::format(
                "{} calls of this actor have begun, and wait within: it takes no more", used_));
        }
    }
    Slot& slot = shared().slots[place];
    slot.request = call.request;
    slot.overdue.store(false, std::memory_order_relaxed);         // published by the next line
    slot.session.store(call.session, std::memory_order_release);  // SYNC(begun)
    return place;
}

void ActorBoard::end(Place place) noexcept {
    shared().slots[place].session.store(0, std::memory_order_release);  // SYNC(begun)
    std::lock_guard lock(mutex_);
    free_.push_back(place);
}

void ActorBoard::note_overdue(Place place) noexcept {
    // Relaxed: the kernel's end of this process comes between this and who reads it.
    shared().slots[place].overdue.store(true, std::memory_order_relaxed);
}

std::vector<ActorBoard::Begun> ActorBoard::take_begun() {
    std::vector<Begun> begun;
    for (Slot& slot : shared().slots) {
        const std::uint64_t session = slot.session.load(std::memory_order_acquire);  // SYNC(begun)
        if (session != 0)
            begun.push_back(
                {{session, slot.request}, slot.overdue.load(std::memory_order_relaxed)});
        slot.session.store(0, std::memory_order_relaxed);  // the next process is not there yet
    }
    return begun;
}

void ActorBoard::save(std::span<const std::byte> state) {
    const std::uint64_t last = shared().last.load(std::memory_order_relaxed);  // ours alone
    const std::uint64_t next = last != 0 && (last & 2) == 0 ? 1 : 0;
    const int file = files_[next].get();
    sys::check_file_limit(state.size(), "a checkpoint");
    for (std::size_t done = 0; done < state.size();) {
        const ssize_t n =
            ::pwrite(file, state.data() + done, state.size() - done, static_cast<off_t>(done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw_errno(errno, "pwrite(a checkpoint of the actor)");
        done += static_cast<std::size_t>(n);
    }
    shared().last.store(std::uint64_t(state.size()) << 2 | next << 1 | 1,
                        std::memory_order_release);  // SYNC(checkpoint)
}

std::optional<std::vector<std::byte>> ActorBoard::last_state() const {
    const std::uint64_t last = shared().last.load(std::memory_order_acquire);  // SYNC(checkpoint)
    if (last == 0) return std::nullopt;
    struct stat status = {};
    if (::fstat(files_[last >> 1 & 1].get(), &status) != 0)
        throw_errno(errno, "fstat(a checkpoint of the actor)");
    if ((last & 1) == 0 || last >> 2 > static_cast<std::uint64_t>(status.st_size))
        throw std::runtime_error("the actor's last checkpoint was written over");
    std::vector<std::byte> state(static_cast<std::size_t>(last >> 2));
    const int file = files_[last >> 1 & 1].get();
    for (std::size_t done = 0; done < state.size();) {
        const ssize_t n =
            ::pread(file, state.data() + done, state.size() - done, static_cast<off_t>(done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw_errno(errno, "pread(a checkpoint of the actor)");
        if (n == 0) throw std::runtime_error("the actor's last checkpoint was cut short");
        done += static_cast<std::size_t>(n);
    }
    return state;
}

}  // namespace sidestep::detail

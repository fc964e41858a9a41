#include "actor_board.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <utility>

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
    // Relaxed: published by the next line.
    shared().overdue[place].store(0, std::memory_order_relaxed);
    shared().names[place].set(call);
    shared().again[place].set(call);
    return place;
}

void ActorBoard::Name::set(const CallName& call) noexcept {
    request.store(call.request, std::memory_order_relaxed);
    session.store(call.session, std::memory_order_release);  // SYNC(begun)
}

void ActorBoard::end(Place place) noexcept {
    shared().names[place].session.store(0, std::memory_order_release);  // SYNC(begun)
    shared().again[place].session.store(0, std::memory_order_release);  // SYNC(begun)
    std::lock_guard lock(mutex_);
    free_.push_back(place);
}

void ActorBoard::note_overdue(Place place) noexcept {
    // Relaxed: the kernel's end of this process comes between this and who reads it.
    shared().overdue[place].store(kOverdue, std::memory_order_relaxed);
}

std::vector<ActorBoard::Begun> ActorBoard::take_begun() {
    std::vector<Begun> begun;
    begun.reserve(2 * kMostBegun);  // or none is taken
    for (auto* names : {shared().names, shared().again}) {
        for (Place place = 0; place < kMostBegun; ++place) {
            Name& name = names[place];
            // SYNC(begun)
            const std::uint64_t session = name.session.load(std::memory_order_acquire);
            if (session == 0) continue;
            begun.push_back({{session, name.request.load(std::memory_order_relaxed)},
                             shared().overdue[place].load(std::memory_order_relaxed) == kOverdue});
            // Relaxed: the next process is not there yet.
            name.session.store(0, std::memory_order_relaxed);
        }
    }
    return begun;
}

// --- checkpoints -------------------------------------------------------------------------------

namespace {

constexpr std::uint64_t kCheckpoint = 0x746e696f706b6368;  // what a head begins with

// Of eight bytes at a time: damage is to be found, not malice.
std::uint64_t sum_of(std::uint64_t generation, std::span<const std::byte> state) {
    constexpr std::uint64_t kFactor = 0x9e3779b97f4a7c15;
    std::uint64_t sum = (generation ^ state.size()) * kFactor;
    for (std::size_t at = 0; at < state.size(); at += sizeof sum) {
        std::uint64_t word = 0;
        std::memcpy(&word, state.data() + at, std::min(sizeof word, state.size() - at));
        sum = (sum ^ word) * kFactor;
        sum ^= sum >> 32;
    }
    return sum;
}

void write_all(int file, std::span<const std::byte> bytes, std::size_t offset) {
    while (!bytes.empty()) {
        const ssize_t n = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw_errno(errno, "pwrite(a checkpoint of the actor)");
        bytes = bytes.subspan(static_cast<std::size_t>(n));
        offset += static_cast<std::size_t>(n);
    }
}

// False: the file ends before.
bool read_all(int file, std::span<std::byte> bytes, std::size_t offset) {
    while (!bytes.empty()) {
        const ssize_t n = ::pread(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw_errno(errno, "pread(a checkpoint of the actor)");
        if (n == 0) return false;
        bytes = bytes.subspan(static_cast<std::size_t>(n));
        offset += static_cast<std::size_t>(n);
    }
    return true;
}

}  // namespace

void ActorBoard::save(std::span<const std::byte> state) {
    sys::check_file_limit(sizeof(Head) + state.size(), "a checkpoint");
    const unsigned next = 1 - last_;
    const int file = files_[next].get();
    Head head = {};
    write_all(file, std::as_bytes(std::span(&head, 1)), 0);
    write_all(file, state, sizeof head);
    head = {kCheckpoint, generation_ + 1, state.size(), sum_of(generation_ + 1, state)};
    write_all(file, std::as_bytes(std::span(&head, 1)), 0);
    ++generation_;
    last_ = next;
}

std::optional<std::vector<std::byte>> ActorBoard::read(int file, Head& head,
                                                       bool& written_over) const {
    head = {};
    const bool has_head = read_all(file, std::as_writable_bytes(std::span(&head, 1)), 0);
    if (!has_head || (head.magic | head.generation | head.size | head.sum) == 0)
        return std::nullopt;  // it was never written, or not to the end
    struct stat status = {};
    if (::fstat(file, &status) != 0) throw_errno(errno, "fstat(a checkpoint of the actor)");
    const auto room = static_cast<std::uint64_t>(status.st_size) - sizeof head;
    if (head.magic == kCheckpoint && head.size <= room) {
        std::vector<std::byte> state(static_cast<std::size_t>(head.size));
        if (read_all(file, state, sizeof head) && head.sum == sum_of(head.generation, state))
            return state;
    }
    written_over = true;
    return std::nullopt;
}

std::optional<std::vector<std::byte>> ActorBoard::last_state() {
    std::optional<std::vector<std::byte>> last;
    bool written_over = false;
    generation_ = 0;
    for (unsigned file : {0u, 1u}) {
        Head head;
        auto state = read(files_[file].get(), head, written_over);
        if (!state || head.generation <= generation_) continue;
        last = std::move(state);
        last_ = file;
        generation_ = head.generation;
    }
    if (!last && written_over)
        throw std::runtime_error("both of the actor's last checkpoints were written over");
    return last;
}

}  // namespace sidestep::detail

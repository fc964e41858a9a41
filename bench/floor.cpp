#include "floor.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "memory/segment.hpp"
#include "queue/task_ring.hpp"
#include "sync/spin.hpp"

namespace bench {
namespace {

using sidestep::sys::Clock;

// The floors are processes of their own, without the library's life-cycle.
int start_child(auto body) {
    int pid = fork();
    if (pid == 0) {
        body();
        _exit(0);
    }
    return pid;
}

void* map_shared(std::size_t bytes) {
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void end_child(int pid) {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
}

}  // namespace

struct PingPong::Shared {
    alignas(128) std::atomic<std::uint32_t> ping{0};
    alignas(128) std::atomic<std::uint32_t> pong{0};
};

namespace {
void await(std::atomic<std::uint32_t>& word, std::uint32_t wanted, PingPong::Wait wait) {
    for (std::uint32_t seen; (seen = word.load()) != wanted;)
        if (wait == PingPong::Wait::futex)
            sidestep::sys::futex_wait(word, seen, {});
        else
            sidestep::cpu_relax();
}
void hand_over(std::atomic<std::uint32_t>& word, std::uint32_t value, PingPong::Wait wait) {
    word.store(value);
    if (wait == PingPong::Wait::futex) sidestep::sys::futex_wake(word, 1);
}
}  // namespace

PingPong::PingPong(Wait wait) : shared_(new (map_shared(sizeof(Shared))) Shared), wait_(wait) {
    child_ = start_child([this] {
        for (std::uint32_t turn = 1;; ++turn) {
            await(shared_->ping, turn, wait_);
            hand_over(shared_->pong, turn, wait_);
        }
    });
}

PingPong::~PingPong() {
    end_child(child_);
    munmap(shared_, sizeof(Shared));
}

std::chrono::nanoseconds PingPong::round_trip() {
    auto begin = Clock::now();
    hand_over(shared_->ping, ++turn_, wait_);
    await(shared_->pong, turn_, wait_);
    return Clock::now() - begin;
}

HandOver::HandOver(std::size_t bytes)
    : own_(bytes, 'x'),
      shared_(static_cast<char*>(map_shared(bytes))),
      turns_(new (map_shared(sizeof(PingPong::Shared))) PingPong::Shared) {
    child_ = start_child([this] {
        std::vector<char> theirs(own_.size(), 'y');
        for (std::uint32_t turn = 1;; ++turn) {
            await(turns_->ping, turn, PingPong::Wait::spin);
            std::memcpy(theirs.data(), shared_, theirs.size());
            hand_over(turns_->pong, turn, PingPong::Wait::spin);
        }
    });
}

HandOver::~HandOver() {
    end_child(child_);
    munmap(turns_, sizeof(PingPong::Shared));
    munmap(shared_, own_.size());
}

void HandOver::run() {
    std::memcpy(shared_, own_.data(), own_.size());
    hand_over(turns_->ping, ++turn_, PingPong::Wait::spin);
    await(turns_->pong, turn_, PingPong::Wait::spin);
}

struct BareRing::State {
    static constexpr std::uint32_t kCapacity = 512;
    sidestep::Segment segment =
        sidestep::Segment::create("sidestep-bench", sidestep::RingHeader::bytes_for(kCapacity));
    sidestep::RingParent ring;
    int child = 0;

    State() {
        auto* header = new (segment.data()) sidestep::RingHeader;
        new (header->slots()) sidestep::TaskSlot[kCapacity];
        ring = sidestep::RingParent(header, kCapacity);
        child = start_child([header] {
            sidestep::RingWorker worker(header, kCapacity);
            for (;;) {
                sidestep::TaskSlot* slot = worker.claim();
                if (!slot)
                    sidestep::cpu_relax();
                else if (!worker.complete(*slot))
                    std::abort();
            }
        });
    }
    ~State() { end_child(child); }
};

BareRing::BareRing() : state_(std::make_unique<State>()) {}
BareRing::~BareRing() = default;

std::chrono::nanoseconds BareRing::run(std::uint64_t tasks) {
    sidestep::RingParent& ring = state_->ring;
    auto begin = Clock::now();
    for (std::uint64_t sent = 0, received = 0; received < tasks;) {
        while (sent < tasks && !ring.full()) {
            ring.next().serial = sent++;
            ring.publish();
        }
        for (; ring.front_done(); ++received) ring.release_front();
    }
    return Clock::now() - begin;
}

}  // namespace bench

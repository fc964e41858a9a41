// What the hardware and the kernel allow: the floors beside which the library's figures stand.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace bench {

// Two processes that hand a word to and fro, each spinning until it is its turn, or sleeping on a
// futex.
class PingPong {
  public:
    enum class Wait { spin, futex };
    explicit PingPong(Wait wait);
    ~PingPong();
    std::chrono::nanoseconds round_trip();

    struct Shared;

  private:
    Shared* shared_;
    Wait wait_;
    int child_ = 0;
    std::uint32_t turn_ = 0;
};

// Two processes and a buffer that both have mapped: one copies bytes in, the other copies them out
// and says so, both spinning until it is their turn. The memory is there already, on all sides.
class HandOver {
  public:
    explicit HandOver(std::size_t bytes);
    ~HandOver();
    HandOver(const HandOver&) = delete;
    HandOver& operator=(const HandOver&) = delete;
    void run();

  private:
    std::vector<char> own_;
    char* shared_;
    PingPong::Shared* turns_;
    int child_ = 0;
    std::uint32_t turn_ = 0;
};

// A bare ring between two processes that answers each task with its argument: no futures, no
// serialization, no wake-ups.
class BareRing {
  public:
    BareRing();
    ~BareRing();
    // `tasks` tasks, as many in flight as the ring holds; nanoseconds for all.
    std::chrono::nanoseconds run(std::uint64_t tasks);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace bench

// Jobs whose workers have something to do, so that what comes then runs, or waits, on another host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <sidestep/future.hpp>

#include "pool_support.hpp"
#include "thread_job.hpp"

namespace test {

// With one worker here and two on each of two hosts: the key of a task of this host, of host1.
inline constexpr std::uint64_t kHere = 5, kOnHost1 = 1;

// What begins, and the gate that it waits for.
enum HostWord : std::size_t { kBegun, kGate, kBegunToo, kOther, kHostWords };

// Until the gate is open; what the gate says then.
inline int hold(const std::string& path) { return static_cast<int>(wait_at(path, kBegun, kGate)); }

// A pool whose worker on this host is busy until the gate is open, or the object is gone.
struct Elsewhere {
    Elsewhere() : pool(job.options()), here(pool.submit({.key = kHere}, hold, words.path())) {
        await(words[kBegun]);
    }
    ~Elsewhere() { words[kGate] = words[kOther] = 1; }
    // A task that a worker of host1 has begun, and does not end.
    sidestep::Future<int> held() {
        words[kBegun] = 0;
        auto future = pool.submit({.key = kOnHost1}, hold, words.path());
        await(words[kBegun]);
        return future;
    }

    ThreadJob job{2};
    SharedWords words{kHostWords};
    sidestep::Pool pool;
    sidestep::Future<int> here;
};

// Many that wait behind one that runs, all on host1.
struct Queued {
    Queued() : pool(job.options()), runs(pool.submit({.key = kOnHost1}, hold, words.path())) {
        await(words[kBegun]);
        for (int i = 0; i < 100; ++i) waiting.push_back(add());
    }
    ~Queued() { words[kGate] = 1; }
    sidestep::Future<int> add() { return pool.submit({.key = kOnHost1}, test::add, 1, 2); }

    ThreadJob job{2};
    SharedWords words{kHostWords};
    sidestep::Pool pool;
    sidestep::Future<int> runs;
    std::vector<sidestep::Future<int>> waiting;
};

}  // namespace test

// What a server of objects has done so far, and does now: stats() of an Actor, a Manager, a
// ManagerServer.
//
//     std::cout << account.stats().describe();
//     for (const CallNow& call : manager.stats().now)
//         if (call.overdue) std::cerr << call.method << " of " << call.client << " goes on\n";
//
// It is answered beside the calls: also while all of them hang. Of an actor that was started again,
// it is what the process does that has the object now.
//
// Ownership: plain values, a copy of the moment. Threads: single-owner.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace sidestep::inline v0 {

// Calls count when they have ended in the object; those that were taken back before they began do
// not.
struct ObjectStats {
    std::uint64_t number = 0;  // Proxy::number()
    std::string name;          // of an actor; by which it is exposed; else empty
    std::string type;
    std::uint64_t calls = 0;
    std::uint64_t failed = 0;   // of these: that threw
    std::uint64_t overdue = 0;  // of these: whose timeout had passed
    // In the object, from when they had entered it (a get() that waits for an item does so inside);
    // all of them, and the longest.
    std::chrono::nanoseconds run{0}, longest_run{0};
    // From their arrival at the server until they had entered: all of them.
    std::chrono::nanoseconds wait{0};

    template <class Archive>
    void serialize(Archive& archive) {
        archive(number, name, type, calls, failed, overdue, run, longest_run, wait);
    }
};

// A call that is in its object.
struct CallNow {
    std::uint64_t object = 0;  // 0: it makes one
    std::string method;        // "Account::deposit"; of a function, as the compiler spells it
    int client = 0;            // the caller's pid; 0: it is on another machine, or not to be seen
    std::chrono::nanoseconds run{0};
    bool waits = false;    // within, as a get() for an item: it lets others in
    bool overdue = false;  // its timeout has passed: its caller was told so, and it goes on

    template <class Archive>
    void serialize(Archive& archive) {
        archive(object, method, client, run, waits, overdue);
    }
};

struct ServerStats {
    int pid = 0;
    unsigned restarts = 0;             // of an actor
    std::uint64_t clients = 0;         // connections
    std::uint64_t waiting = 0;         // calls that have not begun
    std::vector<CallNow> now;          // the longest first
    std::vector<ObjectStats> objects;  // by number

    // All of it as lines for people.
    std::string describe() const;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pid, restarts, clients, waiting, now, objects);
    }
};

}  // namespace sidestep

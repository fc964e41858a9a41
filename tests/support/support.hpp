// Helpers of the tests: waiting for events, looking for leaks.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>

// The program is several times slower than it would be.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define TEST_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define TEST_SANITIZED 1
#endif
#endif

namespace test {

using namespace std::chrono_literals;

// Every wait in a test is for an event, with a deadline that is generous: machines are shared.
inline constexpr auto kPatience = 60s;

// Calls into the library what a main() calls first (spawned workers never return from here).
void initialize();

// Polls `condition` until it holds; false after the deadline.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds deadline = kPatience);

// A temporary folder for this process and its children alone, while it lives: what another run
// makes in the common one at the same time is no leak of ours.
class PrivateTemporary {
  public:
    PrivateTemporary();
    ~PrivateTemporary() { remove(); }
    PrivateTemporary(const PrivateTemporary&) = delete;
    PrivateTemporary& operator=(const PrivateTemporary&) = delete;
    bool remove();  // at the end; false, and words, if it cannot be

  private:
    std::string path_;
};

// What a test must leave as it found it.
struct Resources {
    std::map<int, std::string> fds;      // number -> what it refers to
    std::set<int> children;              // pids, zombies too
    std::set<std::string> shared_names;  // entries of /dev/shm
    std::set<std::string> temporary;     // entries of the temporary folder that bear our names

    static Resources now();
    // One line for each thing that is here and was not in `before`; empty: nothing leaked.
    std::string leaked_since(const Resources& before) const;
};

// Nothing leaked since then; what others have in /dev/shm for a moment is waited for.
inline bool nothing_left_since(const Resources& before) {
    return eventually([&] { return Resources::now().leaked_since(before).empty(); });
}

// How many test cases of this run left something behind (a listener checks each).
int leaks_found();

// The name of the test case that runs, and how long it has. Async-signal-safe.
void write_running_test(int fd);

// What the process that asks has mapped under that name: it is there, or the process ends.
std::span<std::byte> mapping(const char* name);

}  // namespace test

// What the injectors run: small programs that use one part of the library each, and say what came
// of every step. A fault may make a step fail with an exception; it may not change a result, end
// the program, or leave anything behind.
//
// Lines on stdout: OK step | ERROR step: what | WRONG step: what | CHILD name state | FDS count:
// kinds | ALLOCATIONS count. A step that failed is taken once more, as STEP/again: with a single
// fault it has to work.
#pragma once

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>

#include <sidestep/start_method.hpp>

namespace subjects {

// One step: true when it came to its end.
bool step(std::string_view name, const std::function<void()>& action);
// The same, and once more if it failed.
bool step_twice(std::string_view name, const std::function<void()>& action);

// How long a step waits for what a child may never send: ten seconds, or as many as the environment
// says (PATIENCE), since with a fault for good each step waits in vain.
std::chrono::seconds patience();

// A result that is not what it should be.
class Wrong : public std::logic_error {
    using std::logic_error::logic_error;
};
inline void expect(bool holds, const char* what) {
    if (!holds) throw Wrong(what);
}
// What did not come, for a child of the subject's may have met the fault: no wrong result.
inline void expect_came(bool came, const char* what) {
    if (!came) throw std::runtime_error(std::string("nothing came: ") + what);
}
// The action throws an E.
template <class E, class F>
void expect_throw(F&& action, const char* what) {
    try {
        action();
    } catch (const E&) {
        return;
    }
    throw Wrong(std::string(what) + ": no exception");
}

void use_pool(sidestep::StartMethod method);
void use_pool_options(sidestep::StartMethod method);
void use_pool_insight(sidestep::StartMethod method);
void use_thread_pool();
void use_nested(sidestep::StartMethod method);
void use_tokens();
void use_lines(sidestep::StartMethod method);
void use_hosts();
void use_process();
void use_subprocess();
void use_locks();
void use_connections();
void use_shared_memory();
void use_manager();
void use_actor();
void use_server();
// Without faults: removes what a step that failed was told to keep.
void remove_what_is_kept();

}  // namespace subjects

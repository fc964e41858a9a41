// Like its twin in all names: only where the code lies tells them apart.
#include "task_support.hpp"

static auto make_lambda() {
    return [](int x) { return x + 100; };
}
static int function(int x) { return x + 101; }

namespace test {

sidestep::detail::TaskId twin_a_id() {
    return sidestep::detail::task_id<CallOf<decltype(make_lambda()), int>>();
}
int run_twin_a(int x) { return run_task(make_lambda(), x); }

sidestep::detail::TaskId twin_a_function_id() {
    return sidestep::detail::task_id<CallOf<decltype(&function), int>>();
}
int run_twin_a_function(int x) { return run_task(&function, x); }

}  // namespace test

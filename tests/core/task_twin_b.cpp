// Like its twin in all names: only where the code lies tells them apart.
#include "task_support.hpp"

static auto make_lambda() {
    return [](int x) { return x + 200; };
}
static int function(int x) { return x + 201; }

namespace test {

sidestep::detail::TaskId twin_b_id() {
    return sidestep::detail::task_id<CallOf<decltype(make_lambda()), int>>();
}
int run_twin_b(int x) { return run_task(make_lambda(), x); }

sidestep::detail::TaskId twin_b_function_id() {
    return sidestep::detail::task_id<CallOf<decltype(&function), int>>();
}
int run_twin_b_function(int x) { return run_task(&function, x); }

}  // namespace test

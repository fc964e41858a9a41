// A library that has a task. Those of all such libraries have the same type, and the same code.
#include <string>

#include <sidestep/pool.hpp>

extern const int plugin_table[4];
const int plugin_table[4] = {NUMBER, NUMBER + 1, NUMBER + 2, NUMBER + 3};

namespace {

int add_number(int x) { return x + plugin_table[x & 2]; }

}  // namespace

extern "C" {

int plugin_function(sidestep::Pool& pool, int x) { return pool.submit(add_number, x).get(); }
int plugin_lambda(sidestep::Pool& pool, int x) {
    return pool.submit([](int y) { return y + plugin_table[y & 1]; }, x).get();
}
// Makes the pool itself; what it says.
void plugin_own_pool(sidestep::StartMethod method, std::string& result) {
    try {
        sidestep::Pool pool({.processes = 1, .start_method = method});
        result = std::to_string(plugin_function(pool, 5));
    } catch (const std::exception& error) {
        result = error.what();
    }
}

}  // extern "C"

// What a stack is tested with: compiled with debug information, and optimized so that `inlined` is.
#include "crash_functions.hpp"

#include <functional>
#include <tuple>

namespace test {
namespace {

struct Table {
    int head[4];
    int value;
};
inline __attribute__((always_inline)) int inlined(const volatile Table* table) {
    return table->value + 1;  // the line that is told
}

}  // namespace

[[gnu::noinline]] int read_table(const void* table) {
    int value = inlined(static_cast<const volatile Table*>(table));
    asm volatile("" : : "r"(value));  // no tail call
    return value;
}

int through_the_library(int) {
    auto call = [](int (*f)(const void*), const void* table) {
        int value = std::invoke(f, table);
        asm volatile("" : : "r"(value));
        return value;
    };
    std::function<int(int (*)(const void*), const void*)> kept = call;
    int value =
        std::apply(kept, std::tuple<int (*)(const void*), const void*>(read_table, nullptr));
    asm volatile("" : : "r"(value));
    return value;
}

}  // namespace test

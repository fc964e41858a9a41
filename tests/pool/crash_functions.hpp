// Functions that crash, with debug information, in every build.
#pragma once

namespace test {

// Reads 16 bytes behind `table`, in a function that is inlined.
int read_table(const void* table);
// Calls read_table(nullptr) by way of std::apply, std::function and std::invoke.
int through_the_library(int);

}  // namespace test

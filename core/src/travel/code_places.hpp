// Where code is, in the words of its source: for messages and stacks.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace sidestep::inline v0::detail {

struct CodePlace {
    std::string function;  // "divide(int, int)"; empty: no symbol covers it, and `file` is the
                           //   path of the program or library
    std::string file;      // without folders; empty: the program has no debug information
    int line = 0;
    const void* address = nullptr;
};
// Of addresses of this process, in their order; what is inlined there comes first, each with a
// place of its own. Takes milliseconds.
std::vector<CodePlace> code_places(std::span<const void* const> addresses);

// "divide(int, int) at math.cpp:17"; "function at 0x1234 of /lib/x.so" without a symbol.
std::string describe(const CodePlace& place);

}  // namespace sidestep::detail

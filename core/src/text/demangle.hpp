// The name of a type or function as people write it, from how the compiler spells it.
#pragma once

#include <string>
#include <string_view>

namespace sidestep::inline v0 {

// Of a name as a compiler prints it: "std::map<std::string, int>" for
// "std::map<std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char> >, int,
// ...>", "const T&" for "T const&". Without default arguments of standard templates, inline
// namespaces (the library's own, too) and unnamed ones. What it cannot read stays as it is.
std::string readable_name(std::string_view text);

// The same from a symbol or type_info::name(); what is no symbol stays as it is.
std::string demangle(const char* mangled);

}  // namespace sidestep

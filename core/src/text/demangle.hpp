// The name of a type or function, from how the compiler spells it in symbols.
#pragma once

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

namespace sidestep::inline v0 {

// Without the inline namespace of the version, which no user writes.
inline std::string demangle(const char* mangled) {
    int status = 0;
    std::unique_ptr<char, decltype(&std::free)> text(
        abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
    std::string name = status == 0 ? text.get() : mangled;
    constexpr std::string_view kVersioned = "sidestep::v0::", kPlain = "sidestep::";
    for (std::size_t at = 0; (at = name.find(kVersioned, at)) != std::string::npos;)
        name.replace(at, kVersioned.size(), kPlain);
    return name;
}

}  // namespace sidestep

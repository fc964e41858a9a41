#include "start/hidden_variables.hpp"

#include <unistd.h>

#include <algorithm>

namespace sidestep::inline v0 {
namespace {

std::vector<std::string_view>& prefixes() {
    static auto* list = new std::vector<std::string_view>;  // never destroyed: workers start late
    return *list;
}

}  // namespace

void hide_variables(std::span<const std::string_view> names) {
    prefixes().assign(names.begin(), names.end());
}

std::vector<std::string> hidden_variables() {
    std::vector<std::string> found;
    if (prefixes().empty()) return found;
    for (char** entry = environ; entry && *entry; ++entry) {
        std::string_view name(*entry);
        name = name.substr(0, name.find('='));
        if (std::any_of(prefixes().begin(), prefixes().end(),
                        [&](std::string_view prefix) { return name.starts_with(prefix); }))
            found.emplace_back(name);
    }
    return found;
}

}  // namespace sidestep

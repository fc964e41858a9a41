#include "worker/frame_names.hpp"

#include <algorithm>
#include <string_view>

#include "travel/code_places.hpp"

namespace sidestep::inline v0::detail {
namespace {

// The name alone, with parameters, of "int std::__invoke_impl<int>(int (*)())": where the last word
// begins that is in no brackets.
std::string_view name_alone(std::string_view function) {
    std::size_t begin = 0, begin_of_word = 0;
    int depth = 0;
    for (std::size_t i = 0; i < function.size(); ++i) {
        const char c = function[i];
        if (c == '(' && depth == 0 && i > begin_of_word) begin = begin_of_word;
        depth += c == '<' || c == '(' || c == '{';
        depth -= c == '>' || c == ')' || c == '}';
        if (c == ' ' && depth == 0) begin_of_word = i + 1;
    }
    return function.substr(begin);
}
// Runs a task: all that is further out called it.
bool is_entry(std::string_view name) {
    return name.starts_with("sidestep::detail::") &&
           name.find("::run(sidestep::InputArchive&") != name.npos;
}
// How the libraries come from one function to the next.
bool is_plumbing(const CodePlace& place) {
    const std::string_view name = name_alone(place.function);
    if (name.empty())
        for (std::string_view library : {"/libc.so", "/libstdc++.so", "/libgcc_s.so", "/libc++"})
            if (place.file.find(library) != place.file.npos) return true;
    for (std::string_view inner :
         {"std::__", "std::invoke", "std::apply", "std::_Function_handler", "std::function<",
          "sidestep::detail::", "__pthread_kill", "__gnu_cxx::", "__gxx_personality", "_Unwind_"})
        if (name.starts_with(inner)) return true;
    return false;
}

}  // namespace

std::vector<std::string> name_frames(const std::vector<const void*>& addresses, std::size_t most) {
    std::vector<CodePlace> places = code_places(addresses);
    auto entry = std::find_if(places.begin(), places.end(), [](const CodePlace& place) {
        return is_entry(name_alone(place.function));
    });
    places.erase(entry, places.end());
    std::vector<std::string> names;
    for (bool all : {false, true}) {
        for (const CodePlace& place : places)
            if (names.size() < most && (all || !is_plumbing(place)))
                names.push_back(describe(place));
        if (!names.empty()) break;
    }
    return names;
}

std::string stack_text(const std::vector<const void*>& addresses) {
    static constexpr std::size_t kMostInText = 8;
    std::string text;
    for (const std::string& name : name_frames(addresses, kMostInText))
        text += std::string(kFrame) + name;
    return text;
}

}  // namespace sidestep::detail

#include "text/demangle.hpp"

#include <cxxabi.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <vector>

namespace sidestep::inline v0 {
namespace {

using Items = std::vector<std::string>;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_word(char c) {
    return c == '_' || is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// --- standard templates --------------------------------------------------------------------------

// How many arguments people write; the others are defaults that follow from these.
struct Standard {
    std::string_view name;
    std::size_t own_arguments;
};
constexpr auto kStandard = std::to_array<Standard>({
    {"std::vector", 1},
    {"std::deque", 1},
    {"std::list", 1},
    {"std::forward_list", 1},
    {"std::set", 1},
    {"std::multiset", 1},
    {"std::map", 2},
    {"std::multimap", 2},
    {"std::unordered_set", 1},
    {"std::unordered_multiset", 1},
    {"std::unordered_map", 2},
    {"std::unordered_multimap", 2},
    {"std::unique_ptr", 1},
    {"std::basic_string", 1},
    {"std::basic_ostream", 1},
    {"std::basic_istream", 1},
    {"std::basic_iostream", 1},
    {"std::basic_string_view", 1},
});
// Names that people write for what the compiler spells out.
struct Alias {
    std::string_view spelled, written;
};
constexpr auto kAliases = std::to_array<Alias>({
    {"std::basic_string<char>", "std::string"},
    {"std::basic_string<wchar_t>", "std::wstring"},
    {"std::basic_string<char8_t>", "std::u8string"},
    {"std::basic_string<char16_t>", "std::u16string"},
    {"std::basic_string<char32_t>", "std::u32string"},
    {"std::basic_string_view<char>", "std::string_view"},
    {"std::basic_string_view<wchar_t>", "std::wstring_view"},
    {"std::basic_ostream<char>", "std::ostream"},
    {"std::basic_istream<char>", "std::istream"},
    {"std::basic_iostream<char>", "std::iostream"},
    {"std::chrono::duration<long, std::ratio<1, 1000000000>>", "std::chrono::nanoseconds"},
    {"std::chrono::duration<long, std::ratio<1, 1000000>>", "std::chrono::microseconds"},
    {"std::chrono::duration<long, std::ratio<1, 1000>>", "std::chrono::milliseconds"},
    {"std::chrono::duration<long, std::ratio<1, 1>>", "std::chrono::seconds"},
    {"std::chrono::duration<long>", "std::chrono::seconds"},
    {"std::chrono::duration<long, std::ratio<60, 1>>", "std::chrono::minutes"},
    {"std::chrono::duration<long, std::ratio<60>>", "std::chrono::minutes"},
    {"std::chrono::duration<long, std::ratio<3600, 1>>", "std::chrono::hours"},
    {"std::chrono::duration<long, std::ratio<3600>>", "std::chrono::hours"},
});

// "1l" and "1ul" are 1, "long int" is long: compilers differ.
std::string plain_argument(std::string argument) {
    if (!argument.empty() && (argument[0] == '-' || is_digit(argument[0]))) {
        const std::size_t digits = argument.find_last_of("0123456789");
        if (argument.find_first_not_of("ul", digits + 1) == argument.npos)
            argument.resize(digits + 1);
    }
    if (argument == "long int") return "long";
    return argument;
}

bool follows(const std::string& argument, const std::string& first) {
    if (argument.starts_with("std::allocator<")) return true;
    for (const char* standard :
         {"std::less", "std::hash", "std::equal_to", "std::char_traits", "std::default_delete"})
        if (argument == fmt::format("{}<{}>", standard, first)) return true;
    return false;
}

std::string template_id(std::string_view name, Items arguments) {
    auto known = std::find_if(kStandard.begin(), kStandard.end(),
                              [&](const Standard& standard) { return standard.name == name; });
    if (known != kStandard.end())
        while (arguments.size() > known->own_arguments && follows(arguments.back(), arguments[0]))
            arguments.pop_back();
    if (name == "std::ratio" || name == "std::chrono::duration")
        for (std::string& argument : arguments) argument = plain_argument(std::move(argument));
    std::string text = fmt::format("{}<{}>", name, fmt::join(arguments, ", "));
    for (const Alias& alias : kAliases)
        if (text == alias.spelled) return std::string(alias.written);
    return text;
}

// --- the reader ----------------------------------------------------------------------------------

struct Unreadable {};
constexpr std::string_view kOperatorSigns = "<>=-+*/%^&|!~[]";

class NameReader {
  public:
    explicit NameReader(std::string_view text) : text_(text) {}

    std::string read() {
        std::string name = read_item('\0');
        if (at_ != text_.size()) throw Unreadable();
        return name;
    }

  private:
    static constexpr int kDeepest = 100;  // a name may come from anybody

    bool next_is(std::string_view what) const { return text_.substr(at_).starts_with(what); }
    bool skip(std::string_view what) {
        if (!next_is(what)) return false;
        at_ += what.size();
        return true;
    }

    // "a, b)" behind the opening bracket.
    Items read_list(char close) {
        if (++depth_ > kDeepest) throw Unreadable();
        Items items;
        for (;;) {
            items.push_back(read_item(close));
            if (at_ == text_.size()) throw Unreadable();
            if (text_[at_++] == close) break;
            while (skip(" ")) {
            }
        }
        --depth_;
        if (items.size() == 1 && items[0].empty()) items.clear();
        return items;
    }
    std::string read_in(char open, char close) {
        return fmt::format("{}{}{}", open, fmt::join(read_list(close), ", "), close);
    }

    // Up to the bracket that closes or a comma, which stay.
    std::string read_item(char close) {
        std::string out;
        while (at_ < text_.size()) {
            const char c = text_[at_];
            if (c == close || (c == ',' && close != '\0')) break;
            if (!read_name_part(out)) read_sign(c, out);
        }
        while (out.ends_with(' ')) out.pop_back();  // "> >"
        return out;
    }

    // What is left out or moved. True: it was one.
    bool read_name_part(std::string& out) {
        const bool begins = out.empty() || !is_word(out.back());
        if (begins && skip("operator")) {
            out += "operator";
            if (skip("()")) out += "()";
            while (at_ < text_.size() && kOperatorSigns.find(text_[at_]) != text_.npos)
                out += text_[at_++];
            return true;
        }
        for (std::string_view hidden : {"(anonymous namespace)::", "{anonymous}::", "<unnamed>::"})
            if (begins && skip(hidden)) return true;
        if (out.ends_with("sidestep::") && skip("v0::")) return true;
        if (out.ends_with("::"))
            for (std::string_view hidden : {"__cxx11::", "_V2::", "__1::", "__debug::"})
                if (skip(hidden)) return true;
        for (std::string_view hidden : {"[abi:cxx11]", " [clone "})
            if (next_is(hidden)) {
                const std::size_t end = text_.find(']', at_);
                if (end == text_.npos) throw Unreadable();
                at_ = end + 1;
                return true;
            }
        return move_const(out);
    }

    // "T const&" is "const T&"; a const function or pointer has it behind.
    bool move_const(std::string& out) {
        constexpr std::string_view kConst = " const";
        const bool of_type = !out.empty() && (is_word(out.back()) || out.back() == '>');
        if (!of_type || !next_is(kConst) || out.starts_with("const ")) return false;
        const std::size_t end = at_ + kConst.size();
        if (end < text_.size() && is_word(text_[end])) return false;
        at_ = end;
        out.insert(0, "const ");
        return true;
    }

    void read_sign(char c, std::string& out) {
        ++at_;
        switch (c) {
            case '<': {
                if (out.empty() || !is_word(out.back())) {  // "<lambda(int)>"
                    out += read_in('<', '>');
                    break;
                }
                std::size_t begin = out.size();
                while (begin > 0 && (is_word(out[begin - 1]) || out[begin - 1] == ':')) --begin;
                const std::string name = out.substr(begin);
                out.resize(begin);
                out += template_id(name, read_list('>'));
                break;
            }
            case '(':
                out += read_in('(', ')');
                break;
            case '{':
                out += read_in('{', '}');
                break;
            case '[':
                out += read_in('[', ']');
                break;
            case '>':
            case ')':
            case '}':
            case ']':
                throw Unreadable();
            default:
                out += c;
        }
    }

    const std::string_view text_;
    std::size_t at_ = 0;
    int depth_ = 0;
};

}  // namespace

std::string readable_name(std::string_view text) {
    try {
        return NameReader(text).read();
    } catch (const Unreadable&) {
        return std::string(text);
    }
}

std::string demangle(const char* mangled) {
    int status = 0;
    std::unique_ptr<char, decltype(&std::free)> text(
        abi::__cxa_demangle(mangled, nullptr, nullptr, &status), &std::free);
    return status == 0 ? readable_name(text.get()) : std::string(mangled);
}

}  // namespace sidestep

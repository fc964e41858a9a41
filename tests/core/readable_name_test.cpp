// Names of types and functions in messages: as people write them. White box.
#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include <catch2/catch.hpp>
#include <sidestep/archive.hpp>
#include <sidestep/task.hpp>

#include "text/demangle.hpp"

namespace {  // in no other: users have such types

struct Hidden {};
template <class T>
struct Held {
    T method(const T& value) const { return value; }
};
struct OtherOrder {
    bool operator()(int a, int b) const { return a > b; }
};

}  // namespace

namespace readable_name_test {
namespace {

template <class T>
std::string name_of() {
    return sidestep::demangle(typeid(T*).name());  // of a pointer: typeid drops const
}
// As the compiler prints it, not as symbols have it.
template <class T>
std::string printed() {
    std::string text = sidestep::readable_name(sidestep::detail::type_text<T>());
    const std::size_t begin = text.find("T = ") + 4;
    return text.substr(begin, text.rfind(']') - begin);
}
template <class T>
void check_both(const std::string& expected) {
    CHECK(name_of<T>() == expected + "*");
    CHECK(printed<T>() == expected);
}

}  // namespace

TEST_CASE("types have the names that people write", "[core][names]") {
    check_both<std::string>("std::string");
    check_both<std::u16string>("std::u16string");
    check_both<std::string_view>("std::string_view");
    check_both<std::map<std::string, int>>("std::map<std::string, int>");
    check_both<std::vector<std::vector<double>>>("std::vector<std::vector<double>>");
    check_both<std::unordered_map<int, std::deque<char>>>(
        "std::unordered_map<int, std::deque<char>>");
    check_both<std::unique_ptr<std::string>>("std::unique_ptr<std::string>");
    check_both<std::chrono::milliseconds>("std::chrono::milliseconds");
    check_both<std::chrono::seconds>("std::chrono::seconds");
    check_both<std::chrono::hours>("std::chrono::hours");
    check_both<sidestep::InputArchive>("sidestep::InputArchive");
    check_both<Hidden>("Hidden");
    check_both<Held<std::vector<Hidden>>>("Held<std::vector<Hidden>>");
    CHECK(name_of<const std::string>() == "const std::string*");
    CHECK(name_of<const char* const>() == "const char* const*");
    CHECK(name_of<unsigned long>() == "unsigned long*");
}

TEST_CASE("what is no default argument stays in a type's name", "[core][names]") {
    check_both<std::map<int, int, OtherOrder>>("std::map<int, int, OtherOrder>");
    check_both<std::pair<int, std::less<int>>>("std::pair<int, std::less<int>>");
    check_both<std::tuple<int, std::allocator<int>>>("std::tuple<int, std::allocator<int>>");
}

TEST_CASE("functions have the names that people write", "[core][names]") {
    using sidestep::readable_name;
    auto symbol = [](const char* mangled) { return sidestep::demangle(mangled); };
    CHECK(symbol("_ZN2ns4openERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE") ==
          "ns::open(const std::string&)");
    CHECK(symbol("_ZN12_GLOBAL__N_15crashEPKc.constprop.0") == "crash(const char*)");
    CHECK(symbol("_ZNK5Board4takeERKi") == "Board::take(const int&) const");
    CHECK(symbol("_ZlsRSoRK5Board") == "operator<<(std::ostream&, const Board&)");
    CHECK(symbol("_ZN8sidestep2v04PoolC1Ev") == "sidestep::Pool::Pool()");
    CHECK(readable_name("main::{lambda(int const&)#1}::operator()(int const&) const") ==
          "main::{lambda(const int&)#1}::operator()(const int&) const");
    CHECK(readable_name("bool operator< <int>(Held<int> const&, Held<int> const&)") ==
          "bool operator< <int>(const Held<int>&, const Held<int>&)");
    CHECK(readable_name("int (*)(std::__cxx11::basic_string<char> const&)") ==
          "int (*)(const std::string&)");
    CHECK(readable_name("void Held<int>::open[abi:cxx11](std::_V2::error_category const*)") ==
          "void Held<int>::open(const std::error_category*)");
    // clang's and libc++'s
    CHECK(readable_name("std::__1::vector<std::__1::basic_string<char>>") ==
          "std::vector<std::string>");
}

TEST_CASE("a name that cannot be read stays as it is", "[core][names]") {
    for (const char* text :
         {"", "a<b", "a>b", "f(", "f)", "{", "}]", "x [clone ", "no symbol at all"})
        CHECK(sidestep::readable_name(text) == text);
    CHECK(sidestep::demangle("_Znonsense") == "_Znonsense");
    const std::string deep(100'000, '<');
    CHECK(sidestep::readable_name(deep) == deep);
}

}  // namespace readable_name_test

// How much room a text takes on a terminal. White box.
#include "text/columns.hpp"

#include <catch2/catch.hpp>
#include <string>

namespace columns_test {

namespace mp = sidestep;

namespace {

std::string cut(std::string text, std::size_t columns) {
    mp::cut_to_columns(text, columns);
    return text;
}

}  // namespace

TEST_CASE("a text is as wide as its characters", "[core][text]") {
    CHECK(mp::columns_of("") == 0);
    CHECK(mp::columns_of("abc") == 3);
    CHECK(mp::columns_of("\u00e4\u00f6\u00fc") == 3);
    CHECK(mp::columns_of("\u65e5\u672c") == 4);
    CHECK(mp::columns_of("\U0001f600") == 2);
    CHECK(mp::columns_of("e\u0301") == 1);
    CHECK(mp::columns_of("\u2588\u258f") == 2);
    // What is no UTF-8: a column for each byte.
    CHECK(mp::columns_of("\xff\xfe") == 2);
    CHECK(mp::columns_of("\xe6\x97") == 2);
    CHECK(mp::columns_of("\xe6xy") == 3);
}

TEST_CASE("a text is cut between two characters", "[core][text]") {
    CHECK(cut("abc", 0).empty());
    CHECK(cut("abc", 2) == "ab");
    CHECK(cut("abc", 3) == "abc");
    CHECK(cut("\u65e5\u672c", 1).empty());
    CHECK(cut("\u65e5\u672c", 2) == "\u65e5");
    CHECK(cut("\u65e5\u672c", 3) == "\u65e5");
    CHECK(cut("e\u0301e", 1) == "e\u0301");
    CHECK(cut("\xe6\x97", 1) == "\xe6");
}

TEST_CASE("what is printable is one line", "[core][text]") {
    CHECK(mp::printable("a\nb\tc\033[1m\x7f\u00e4") == "a b c [1m \u00e4");
}

}  // namespace columns_test

// Exceptions inside exceptions, exceptions that cross more than once, and damaged bytes.
#include <array>
#include <filesystem>
#include <future>
#include <regex>
#include <system_error>

#include <catch2/catch.hpp>

#include "remote_error_support.hpp"

namespace remote_error_nested_test {

using namespace test;
using sidestep::remote_traceback;
using sidestep::remote_type_name;
using sidestep::RemoteError;

namespace {

struct Foreign : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct BothBases : std::runtime_error, std::nested_exception {
    using std::runtime_error::runtime_error;
};

// Throws levels-1 runtime errors around an invalid_argument.
void throw_nested(int levels) {
    if (levels == 1) throw std::invalid_argument("level 1");
    try {
        throw_nested(levels - 1);
    } catch (...) {
        std::throw_with_nested(std::runtime_error("level " + std::to_string(levels)));
    }
}

// "runtime_error level 3 < runtime_error level 2 < ..." as it is caught.
std::string chain_of(const std::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::exception& e) {
        std::string text = dynamic_cast<const RemoteError*>(&e)             ? "remote "
                           : dynamic_cast<const std::runtime_error*>(&e)    ? "runtime "
                           : dynamic_cast<const std::invalid_argument*>(&e) ? "invalid "
                                                                            : "other ";
        text += e.what();
        try {
            std::rethrow_if_nested(e);
        } catch (...) {
            text += " < " + chain_of(std::current_exception());
        }
        return text;
    }
}

}  // namespace

TEST_CASE("what throw_with_nested throws arrives by type, with what it wraps",
          "[core][remote_error]") {
    CHECK(chain_of(crossed([] { throw_nested(1); })) == "invalid level 1");
    std::exception_ptr three = crossed([] { throw_nested(3); });
    CHECK(chain_of(three) == "runtime level 3 < runtime level 2 < invalid level 1");
    CHECK(arrives_as<std::runtime_error>(three, [](const std::runtime_error& e) {
        CHECK(remote_traceback(e) ==
              "std::runtime_error: level 3\n  in worker 1\n"
              "which wraps std::runtime_error: level 2\n"
              "which wraps std::invalid_argument: level 1\n");
    }));
}

TEST_CASE("what wraps nothing but could, and what wraps a foreign type", "[core][remote_error]") {
    auto wraps_nothing = [] { std::throw_with_nested(std::logic_error("alone")); };
    CHECK(arrives_as<std::logic_error>(crossed(wraps_nothing)));
    auto wraps_int = [] {
        try {
            throw 5;
        } catch (...) {
            std::throw_with_nested(std::runtime_error("outer"));
        }
    };
    CHECK(chain_of(crossed(wraps_int)) == "runtime outer < remote 5");
    auto foreign_wraps = [] {
        try {
            throw std::invalid_argument("inner");
        } catch (...) {
            std::throw_with_nested(Foreign("outer"));
        }
    };
    CHECK(arrives_as<std::runtime_error>(crossed(foreign_wraps), [](const std::runtime_error& e) {
        CHECK(remote_type_name(e) ==
              "remote_error_nested_test::Foreign");  // not the library's wrapper of it
        CHECK_THAT(remote_traceback(e),
                   Catch::Contains("which wraps std::invalid_argument: inner"));
    }));
    CHECK(chain_of(crossed(foreign_wraps, 2)) == "runtime outer < invalid inner");
    // A user's own class with these bases keeps its name.
    CHECK(arrives_as<std::runtime_error>(
        crossed([] { throw BothBases("mine"); }), [](const std::runtime_error& e) {
            CHECK(remote_type_name(e) == "remote_error_nested_test::BothBases");
        }));
}

TEST_CASE("nesting is cut at sixteen levels below the first", "[core][remote_error]") {
    for (int levels : {16, 17, 18, 40}) {
        std::string chain = chain_of(crossed([&] { throw_nested(levels); }));
        auto arrows = std::count(chain.begin(), chain.end(), '<');
        CHECK(arrows == std::min(levels - 1, 16));
    }
}

TEST_CASE("an exception that crosses several times keeps type, message and nesting",
          "[core][remote_error]") {
    CHECK(chain_of(crossed([] { throw_nested(3); }, 3)) ==
          "runtime level 3 < runtime level 2 < invalid level 1");
    auto file_error = [] {
        throw std::filesystem::filesystem_error("open", "/p",
                                                std::make_error_code(std::errc::io_error));
    };
    CHECK(arrives_as<std::filesystem::filesystem_error>(
        crossed(file_error, 3), [](const std::filesystem::filesystem_error& e) {
            CHECK(e.path1() == "/p");
            CHECK(e.what() == std::string("filesystem error: open: Input/output error [/p]"));
            CHECK_THAT(remote_traceback(e), Catch::Contains("which it got from"));
        }));
    CHECK(arrives_as<std::runtime_error>(
        crossed([] { throw Foreign("far"); }, 3), [](const std::runtime_error& e) {
            CHECK(remote_type_name(e) == "remote_error_nested_test::Foreign");
            CHECK(e.what() == std::string("far"));
        }));
}

TEST_CASE("damaged bytes are refused or arrive as some exception, never worse",
          "[core][remote_error]") {
    auto survives = [](std::span<const std::byte> bytes) {
        try {
            std::exception_ptr error = loaded_exception(bytes);
            try {
                std::rethrow_exception(error);
            } catch (const std::exception& e) {
                return e.what() != nullptr;
            }
        } catch (const sidestep::SerializationError&) {
            return true;
        }
        return false;
    };
    const Bytes samples[] = {
        saved_exception([] { throw_nested(3); }),
        saved_exception([] { throw std::regex_error(std::regex_constants::error_paren); }),
        saved_exception([] { throw std::future_error(std::future_errc::no_state); }),
        saved_exception([] { throw std::system_error(1, std::system_category()); }),
        saved_exception(
            [] { throw std::filesystem::filesystem_error("m", "a", "b", std::error_code()); }),
        saved_exception([] { throw Foreign("f"); })};
    for (const Bytes& good : samples) {
        bool all = true;
        for (std::size_t size = 0; size < good.size(); ++size) {
            Bytes cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
            CHECK_THROWS_AS(loaded_exception(cut), sidestep::SerializationError);
        }
        for (std::size_t at = 0; at < good.size(); ++at)
            for (unsigned flip : {0x01u, 0x02u, 0x10u, 0x80u, 0xffu}) {
                Bytes damaged = good;
                damaged[at] = std::byte(std::to_integer<unsigned>(damaged[at]) ^ flip);
                all = all && survives(damaged);
            }
        CHECK(all);
    }
}

TEST_CASE("a message may hold any bytes, and be long", "[core][remote_error]") {
    std::string text(1 << 20, 'm');
    text += "\xff\n%s{}";
    CHECK(message_of(crossed([&] { throw std::runtime_error(text); })) == text);
}

}  // namespace remote_error_nested_test

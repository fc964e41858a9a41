#include <sidestep/remote_error.hpp>

#include <any>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <new>
#include <regex>
#include <string_view>
#include <system_error>
#include <variant>

#include <catch2/catch.hpp>

#include "remote_error_support.hpp"

namespace remote_error_test {

using namespace test;
using sidestep::remote_traceback;
using sidestep::remote_type_name;
using sidestep::RemoteError;
using sidestep::detail::RemoteInfo;

namespace {

struct WithState : std::runtime_error {
    WithState() : std::runtime_error("with state") {}
    explicit WithState(int c, std::string d)
        : std::runtime_error("code " + std::to_string(c)), code(c), detail(std::move(d)) {}
    int code = 0;
    std::string detail;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(code, detail);
    }
};
struct FromMessage : std::logic_error {
    using std::logic_error::logic_error;
};
struct Final final : std::runtime_error {
    using std::runtime_error::runtime_error;
};
struct ThrowsOnSave : std::runtime_error {
    ThrowsOnSave() : std::runtime_error("cannot be saved") {}
    template <class Archive>
    void save(Archive& archive) const {
        archive(1, 2, 3);
        throw std::domain_error("not today");
    }
    template <class Archive>
    void load(Archive& archive) {
        int skip[3];
        archive(skip);
    }
};
struct ThrowsOnLoad : std::runtime_error {
    ThrowsOnLoad() : std::runtime_error("cannot be loaded") {}
    template <class Archive>
    void save(Archive& archive) const {
        archive(1);
    }
    template <class Archive>
    void load(Archive&) {
        throw std::domain_error("not here");
    }
};
struct ReadsTooLittle : std::runtime_error {
    ReadsTooLittle() : std::runtime_error("half read") {}
    template <class Archive>
    void save(Archive& archive) const {
        archive(1, 2);
    }
    template <class Archive>
    void load(Archive& archive) {
        int one = 0;
        archive(one);
    }
};
struct Unregistered : std::out_of_range {
    using std::out_of_range::out_of_range;
};
struct Own {
    virtual ~Own() = default;
};
struct DerivedTwice : Own, Unregistered {
    using Unregistered::Unregistered;
};
struct OfRegistered : WithState {
    using WithState::WithState;
};
struct Plain : std::exception {
    const char* what() const noexcept override { return "plain"; }
};
struct Silent : std::exception {
    const char* what() const noexcept override { return nullptr; }
};
struct Arbitrary {
    int x = 0;
};

const bool registered =
    sidestep::register_exception<WithState>() && sidestep::register_exception<FromMessage>() &&
    sidestep::register_exception<Final>() && sidestep::register_exception<ThrowsOnSave>() &&
    sidestep::register_exception<ThrowsOnLoad>() && sidestep::register_exception<ReadsTooLittle>();

// The type that RemoteInfo names is the one that was thrown; catching it by a base would hide a
// codec that makes too general a type.
template <class E>
void check_crosses(const E& error, int times = 1) {
    std::exception_ptr arrived = crossed([&] { throw error; }, times);
    INFO(typeid(E).name());
    bool caught = arrives_as<E>(arrived, [&](const E& e) {
        CHECK(e.what() == std::string(error.what()));
        auto* info = dynamic_cast<const RemoteInfo*>(&e);
        REQUIRE(info);
        CHECK(info->type() == typeid(E).name());
    });
    CHECK(caught);
}
template <class... E>
void check_with_message() {
    (check_crosses(E("the message, \xc3\xa4 too")), ...);
    (check_crosses(E("")), ...);
}
template <class... E>
void check_plain() {
    (check_crosses(E()), ...);
}

}  // namespace

TEST_CASE("every exception of the standard library that has a message arrives by type with it",
          "[core][remote_error]") {
    check_with_message<std::logic_error, std::domain_error, std::invalid_argument,
                       std::length_error, std::out_of_range, std::runtime_error, std::range_error,
                       std::overflow_error, std::underflow_error, sidestep::SerializationError,
                       cereal::Exception>();
}

TEST_CASE("every exception of the standard library without a message arrives by type",
          "[core][remote_error]") {
    check_plain<std::exception, std::bad_exception, std::bad_alloc, std::bad_array_new_length,
                std::bad_cast, std::bad_any_cast, std::bad_typeid, std::bad_function_call,
                std::bad_optional_access, std::bad_variant_access, std::bad_weak_ptr>();
}

TEST_CASE("what the library itself throws arrives by type", "[core][remote_error]") {
    CHECK(arrives_as<std::out_of_range>(crossed([] { (void)std::vector<int>().at(3); })));
    CHECK(arrives_as<std::bad_any_cast>(crossed([] { (void)std::any_cast<int>(std::any("x")); })));
    CHECK(
        arrives_as<std::bad_optional_access>(crossed([] { (void)std::optional<int>().value(); })));
    CHECK(arrives_as<std::bad_variant_access>(
        crossed([] { (void)std::get<1>(std::variant<int, char>(1)); })));
    CHECK(arrives_as<std::bad_function_call>(crossed([] { std::function<void()>()(); })));
    CHECK(arrives_as<std::bad_weak_ptr>(
        crossed([] { std::shared_ptr<int> p{std::weak_ptr<int>()}; })));
    CHECK(arrives_as<std::invalid_argument>(crossed([] { (void)std::stoi("x"); })));
    CHECK(arrives_as<std::filesystem::filesystem_error>(
        crossed([] { (void)std::filesystem::file_size("/does/not/exist"); })));
    CHECK(arrives_as<std::ios_base::failure>(crossed([] {
        std::ifstream stream;
        stream.exceptions(std::ios::failbit);
        stream.open("/does/not/exist");
    })));
}

TEST_CASE("error codes arrive with value and category", "[core][remote_error]") {
    for (const std::error_code& code :
         {std::error_code(ENOENT, std::generic_category()),
          std::error_code(EACCES, std::system_category()), make_error_code(std::io_errc::stream),
          std::error_code(0, std::generic_category()),
          std::error_code(-7, std::system_category())}) {
        std::system_error error(code, "the call");
        check_crosses(error);
        CHECK(arrives_as<std::system_error>(
            crossed([&] { throw error; }),
            [&](const std::system_error& e) { CHECK(e.code() == code); }));
    }
    std::ios_base::failure failure("the stream", std::io_errc::stream);
    check_crosses(failure);
    CHECK(arrives_as<std::ios_base::failure>(
        crossed([&] { throw failure; }),
        [](const std::ios_base::failure& e) { CHECK(e.code() == std::io_errc::stream); }));
    std::future_error broken(std::future_errc::broken_promise);
    check_crosses(broken);
    CHECK(arrives_as<std::future_error>(
        crossed([&] { throw broken; }),
        [](const std::future_error& e) { CHECK(e.code() == std::future_errc::broken_promise); }));
}

TEST_CASE("an unknown error category arrives as the generic one, the message intact",
          "[core][remote_error]") {
    struct Category : std::error_category {
        const char* name() const noexcept override { return "mine"; }
        std::string message(int) const override { return "my own words"; }
    };
    static const Category category;
    std::system_error error(5, category, "the call");
    CHECK(arrives_as<std::system_error>(
        crossed([&] { throw error; }), [&](const std::system_error& e) {
            CHECK(e.code().value() == 5);
            CHECK(e.what() == std::string("the call: my own words"));
        }));
}

TEST_CASE("filesystem and regex errors keep paths and codes", "[core][remote_error]") {
    std::filesystem::filesystem_error error("copy", "/from here", "/to",
                                            std::make_error_code(std::errc::permission_denied));
    check_crosses(error);
    CHECK(arrives_as<std::filesystem::filesystem_error>(
        crossed([&] { throw error; }), [](const std::filesystem::filesystem_error& e) {
            CHECK(e.path1() == "/from here");
            CHECK(e.path2() == "/to");
            CHECK(e.code() == std::errc::permission_denied);
        }));
    CHECK(arrives_as<std::regex_error>(crossed([] { std::regex invalid("("); }),
                                       [](const std::regex_error& e) {
                                           CHECK(e.code() == std::regex_constants::error_paren);
                                           CHECK_FALSE(std::string(e.what()).empty());
                                       }));
}

TEST_CASE("registered types arrive with their state or from their message",
          "[core][remote_error]") {
    CHECK(registered);
    check_crosses(FromMessage("only words"));
    check_crosses(WithState(17, "more"));
    CHECK(
        arrives_as<WithState>(crossed([] { throw WithState(17, "more"); }), [](const WithState& e) {
            CHECK(e.code == 17);
            CHECK(e.detail == "more");
        }));
    CHECK(arrives_as<Final>(crossed([] { throw Final("the end"); }),
                            [](const Final& e) { CHECK(e.what() == std::string("the end")); }));
    CHECK(sidestep::register_exception<WithState>());  // a second time changes nothing
}

TEST_CASE("an unregistered type arrives as the nearest base that is known",
          "[core][remote_error]") {
    for (int times : {1, 3}) {
        CHECK(arrives_as<std::out_of_range>(
            crossed([] { throw Unregistered("beyond"); }, times), [](const std::out_of_range& e) {
                CHECK(e.what() == std::string("beyond"));
                CHECK(remote_type_name(e) == "remote_error_test::Unregistered");
                CHECK_THAT(remote_traceback(e),
                           Catch::Contains("Unregistered: beyond\n  in worker 1\n"));
            }));
        CHECK(arrives_as<std::out_of_range>(
            crossed([] { throw DerivedTwice("deep"); }, times), [](const std::out_of_range& e) {
                CHECK(e.what() == std::string("deep"));
                CHECK(remote_type_name(e) == "remote_error_test::DerivedTwice");
            }));
        CHECK(arrives_as<WithState>(
            crossed([] { throw OfRegistered(17, "more"); }, times), [](const WithState& e) {
                CHECK(e.code == 17);
                CHECK(e.detail == "more");
                CHECK(remote_type_name(e) == "remote_error_test::OfRegistered");
            }));
    }
    CHECK(arrives_as<std::ios_base::failure>(crossed([] {
                                                 std::ifstream none("/nowhere");
                                                 none.exceptions(std::ios::failbit);
                                             }),
                                             [](const std::ios_base::failure& e) {
                                                 CHECK_THAT(remote_traceback(e),
                                                            !Catch::Contains("std::__"));
                                             }));
}

TEST_CASE("an unregistered type without a base that is known arrives as RemoteError",
          "[core][remote_error]") {
    std::exception_ptr arrived = crossed([] { throw Plain(); });
    CHECK(arrives_as<RemoteError>(arrived, [](const RemoteError& e) {
        CHECK(e.what() == std::string("plain"));
        CHECK(e.type_name() == "remote_error_test::Plain");
        CHECK(remote_type_name(e) == "remote_error_test::Plain");
        CHECK_THAT(e.traceback(), Catch::Contains("Plain: plain\n  in worker 1\n"));
        CHECK(remote_traceback(e) == e.traceback());
    }));
    CHECK(arrives_as<std::runtime_error>(arrived));  // what RemoteError is
    CHECK(message_of(crossed([] { throw Silent(); })).empty());
    CHECK(arrives_as<std::exception>(crossed([] { throw std::exception(); })));
}

TEST_CASE("what is no std::exception arrives as RemoteError", "[core][remote_error]") {
    auto check = [](const std::exception_ptr& arrived, const char* type, const char* message) {
        CHECK(arrives_as<RemoteError>(arrived, [&](const RemoteError& e) {
            CHECK_THAT(e.type_name(), Catch::Contains(type));
            CHECK(e.what() == std::string(message));
        }));
    };
    check(crossed([] { throw 42; }), "int", "42");
    check(crossed([] { throw "plain words"; }), "const char*", "plain words");
    check(crossed([] { throw std::string("a string"); }), "string", "a string");
    check(crossed([] { throw std::string_view("a view"); }), "std::string_view", "a view");
    check(crossed([] { throw 7ul; }), "unsigned long", "7");
    check(crossed([] { throw 0.5; }), "double", "0.5");
    check(crossed([] { throw true; }), "bool", "true");
    check(crossed([] { throw std::make_error_code(std::errc::io_error); }), "std::error_code",
          "Input/output error (generic:5)");
    check(crossed([] { throw Arbitrary{1}; }), "Arbitrary",
          "an object of type remote_error_test::Arbitrary, which is no std::exception");
    check(crossed([] { throw nullptr; }), "nullptr",
          "an object of type decltype(nullptr), which is no std::exception");
}

TEST_CASE("an exception whose own serialize throws arrives as RemoteError",
          "[core][remote_error]") {
    CHECK(arrives_as<RemoteError>(crossed([] { throw ThrowsOnSave(); })));
    CHECK(arrives_as<RemoteError>(crossed([] { throw ThrowsOnLoad(); })));
    CHECK(arrives_as<RemoteError>(crossed([] { throw ReadsTooLittle(); })));
    CHECK(message_of(crossed([] { throw ThrowsOnSave(); })) == "cannot be saved");
    CHECK(message_of(crossed([] { throw ThrowsOnLoad(); })) == "cannot be loaded");
}

TEST_CASE("an exception of this process has no remote traceback", "[core][remote_error]") {
    CHECK(remote_traceback(std::runtime_error("x")).empty());
    CHECK(remote_type_name(std::runtime_error("x")).empty());
    CHECK(arrives_as<std::runtime_error>(
        crossed([] { throw std::runtime_error("x"); }), [](const std::runtime_error& e) {
            CHECK(remote_traceback(e) == "std::runtime_error: x\n  in worker 1\n");
        }));
}

}  // namespace remote_error_test

// Exceptions that cross a process boundary.
//
// What a task throws is thrown again by get(), by type:
//   - every exception class of the standard library, with its message, code, paths and, if it was
//     thrown with std::throw_with_nested, what it wraps;
//   - every type registered with register_exception;
//   - a type that is neither, but derives from one of them, as the nearest such base: what derives
//     from std::invalid_argument is caught as that, and as std::logic_error. Its own state is lost;
//   - anything else as RemoteError, with the type's name and message: what derives from
//     std::exception alone, or is no exception at all (its value if it is a text, a number or a
//     std::error_code).
// The object that arrives derives from that type; remote_traceback() tells where it came from, and
// remote_type_name() what was thrown there. From a process whose memory is used up, type and
// message come alone: without traceback and what is wrapped, and as RemoteError what has more to it
// than its message, or is not known itself. If it is the reader that has no memory, get() throws
// std::bad_alloc, of this process, and may be called again.
#pragma once

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <typeinfo>

#include <sidestep/archive.hpp>

namespace sidestep::inline v0 {

namespace detail {

// The part of a rethrown exception that knows where it came from.
class RemoteInfo {
  public:
    RemoteInfo(std::string type, std::string traceback)
        : type_(std::move(type)), traceback_(std::move(traceback)) {}
    virtual ~RemoteInfo() = default;
    const std::string& traceback() const { return traceback_; }
    const std::string& type() const { return type_; }  // type_info::name() of what was thrown

  private:
    std::string type_;
    std::string traceback_;
};

}  // namespace detail

// An exception whose type does not cross: it was no std::exception, or neither its type nor a base
// of it is known.
class RemoteError : public std::runtime_error, public detail::RemoteInfo {
  public:
    RemoteError(std::string type_name, const std::string& message, std::string traceback)
        : std::runtime_error(message),
          RemoteInfo(typeid(RemoteError).name(), std::move(traceback)),
          type_name_(std::move(type_name)) {}

    // The type as C++ spells it: "my::Error", "int".
    const std::string& type_name() const { return type_name_; }

  private:
    std::string type_name_;
};

// Where an exception that get() or map() threw came from: type, message, process, task or item of
// the map, and what it wraps, a line each. Empty for an exception of this process.
std::string remote_traceback(const std::exception& error);
// The type of what was thrown, as C++ spells it: "my::Error", where a base of it arrived. Empty for
// an exception of this process.
std::string remote_type_name(const std::exception& error);

namespace detail {

// What was read from the wire besides the type's own state.
struct RemoteText {
    std::string type;  // type_info::name()
    std::string message;
    std::string traceback;
    std::exception_ptr nested;
};

template <class Base, class... More>
class Remote : public Base, public RemoteInfo, public More... {
  public:
    Remote(Base base, RemoteText text)
        : Base(std::move(base)),
          RemoteInfo(std::move(text.type), std::move(text.traceback)),
          message_(std::move(text.message)) {}
    const char* what() const noexcept override { return message_.c_str(); }

  private:
    std::string message_;
};

template <class Base>
std::exception_ptr make_remote(Base base, RemoteText text) {
    if constexpr (std::is_final_v<Base>) {
        return std::make_exception_ptr(std::move(base));
    } else {
        if (!text.nested)
            return std::make_exception_ptr(Remote<Base>(std::move(base), std::move(text)));
        try {
            std::rethrow_exception(text.nested);
        } catch (...) {  // std::nested_exception takes what is being handled
            return std::make_exception_ptr(
                Remote<Base, std::nested_exception>(std::move(base), std::move(text)));
        }
    }
}

// How one exception type is written and made again.
struct ExceptionCodec {
    void (*save)(const std::exception& error, OutputArchive& archive);
    std::exception_ptr (*load)(InputArchive& archive, RemoteText text);
};
// The first registration of a type stays.
bool add_exception_codec(const std::type_info& type, ExceptionCodec codec);

// Writes the exception that is being handled. `where` is the end of its traceback, lines that tell
// process and task. Where there is no memory for that, type and message alone are written; throws
// what the archive's buffer throws if there is none for these.
void save_current_exception(OutputArchive& archive, const std::string& where);
std::exception_ptr load_exception(InputArchive& archive);

}  // namespace detail

// Lets exceptions of type E cross by type. E derives from std::exception and either has a cereal
// `serialize` and a default constructor, or can be made from its message (a std::string).
// Call it in every process, before init(): from a namespace-scope variable, say:
//     const bool registered = sidestep::register_exception<MyError>();
// Returns true.
// Threads: thread-safe.
// Limits:  a type is known by its name, so of two types in unnamed namespaces that have the same
//          one, the first that is registered stays.
template <class E>
bool register_exception() {
    static_assert(std::is_base_of_v<std::exception, E>, "E must derive from std::exception");
    constexpr bool has_state = cereal::traits::is_output_serializable<E, OutputArchive>::value &&
                               std::is_default_constructible_v<E>;
    static_assert(has_state || std::is_constructible_v<E, const std::string&>,
                  "give E a cereal `serialize` and a default constructor, or a constructor from "
                  "std::string");
    static_assert(!detail::names_code<E>, "an exception cannot carry function pointers");
    detail::ExceptionCodec codec;
    if constexpr (has_state) {
        codec.save = [](const std::exception& error, OutputArchive& archive) {
            archive(dynamic_cast<const E&>(error));
        };
        codec.load = [](InputArchive& archive, detail::RemoteText text) {
            E error{};
            archive(error);
            return detail::make_remote<E>(std::move(error), std::move(text));
        };
    } else {
        codec.save = [](const std::exception&, OutputArchive&) {};
        codec.load = [](InputArchive&, detail::RemoteText text) {
            E error(text.message);
            return detail::make_remote<E>(std::move(error), std::move(text));
        };
    }
    return detail::add_exception_codec(typeid(E), codec);
}

}  // namespace sidestep

#include <sidestep/remote_error.hpp>

#include <cxxabi.h>
#include <fmt/format.h>
#include <pthread.h>

#include <any>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <ios>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <regex>
#include <string_view>
#include <system_error>
#include <variant>

#include "text/demangle.hpp"

namespace sidestep::inline v0 {

std::string remote_traceback(const std::exception& error) {
    auto* info = dynamic_cast<const detail::RemoteInfo*>(&error);
    return info ? info->traceback() : std::string();
}

namespace detail {
namespace {

constexpr int kMaxNesting = 16;  // levels of throw_with_nested that travel

using Codecs = std::map<std::string, ExceptionCodec>;  // by type_info::name()

template <class E>
void add_default_constructible(Codecs& codecs) {
    codecs[typeid(E).name()] = {
        [](const std::exception&, OutputArchive&) {},
        [](InputArchive&, RemoteText text) { return make_remote(E(), std::move(text)); }};
}
template <class E>
void add_from_message(Codecs& codecs) {
    codecs[typeid(E).name()] = {[](const std::exception&, OutputArchive&) {},
                                [](InputArchive&, RemoteText text) {
                                    E error(text.message);
                                    return make_remote(std::move(error), std::move(text));
                                }};
}

// Error categories are known by name; a foreign one arrives as generic, its message intact.
const std::error_category& category_named(const std::string& name) {
    for (const std::error_category* known :
         {&std::system_category(), &std::iostream_category(), &std::future_category()})
        if (name == known->name()) return *known;
    return std::generic_category();
}
void save_code(OutputArchive& archive, const std::error_code& code) {
    archive(code.value(), std::string(code.category().name()));
}
std::error_code load_code(InputArchive& archive) {
    int value = 0;
    std::string category;
    archive(value, category);
    return {value, category_named(category)};
}
template <class E>
void add_with_code(Codecs& codecs) {
    codecs[typeid(E).name()] = {
        [](const std::exception& error, OutputArchive& archive) {
            save_code(archive, dynamic_cast<const E&>(error).code());
        },
        [](InputArchive& archive, RemoteText text) {
            std::error_code code = load_code(archive);
            if constexpr (std::is_same_v<E, std::future_error>)
                return make_remote(E(static_cast<std::future_errc>(code.value())), std::move(text));
            else if constexpr (std::is_same_v<E, std::ios_base::failure>)
                return make_remote(E(text.message, code), std::move(text));
            else
                return make_remote(E(code), std::move(text));
        }};
}

std::regex_constants::error_type load_regex_code(InputArchive& archive) {
    using namespace std::regex_constants;
    int value = 0;
    archive(value);
    for (error_type code : {error_collate, error_ctype, error_escape, error_backref, error_brack,
                            error_paren, error_brace, error_badbrace, error_range, error_space,
                            error_badrepeat, error_complexity, error_stack})
        if (code == value) return code;
    throw SerializationError(fmt::format("{} is no code of a std::regex_error", value));
}

void add_special(Codecs& codecs) {
    codecs[typeid(std::filesystem::filesystem_error).name()] = {
        [](const std::exception& error, OutputArchive& archive) {
            auto& e = dynamic_cast<const std::filesystem::filesystem_error&>(error);
            save_code(archive, e.code());
            archive(e.path1(), e.path2());
        },
        [](InputArchive& archive, RemoteText text) {
            std::error_code code = load_code(archive);
            std::filesystem::path first, second;
            archive(first, second);
            std::filesystem::filesystem_error error("", first, second, code);
            return make_remote(std::move(error), std::move(text));
        }};
    codecs[typeid(std::regex_error).name()] = {
        [](const std::exception& error, OutputArchive& archive) {
            archive(static_cast<int>(dynamic_cast<const std::regex_error&>(error).code()));
        },
        [](InputArchive& archive, RemoteText text) {
            return make_remote(std::regex_error(load_regex_code(archive)), std::move(text));
        }};
    codecs[typeid(RemoteError).name()] = {
        [](const std::exception& error, OutputArchive& archive) {
            archive(dynamic_cast<const RemoteError&>(error).type_name());
        },
        [](InputArchive& archive, RemoteText text) {
            std::string name;
            archive(name);
            return std::make_exception_ptr(RemoteError(name, text.message, text.traceback));
        }};
}

Codecs standard_codecs() {
    Codecs codecs;
    add_default_constructible<std::exception>(codecs);
    add_default_constructible<std::bad_exception>(codecs);
    add_default_constructible<std::bad_alloc>(codecs);
    add_default_constructible<std::bad_array_new_length>(codecs);
    add_default_constructible<std::bad_cast>(codecs);
    add_default_constructible<std::bad_any_cast>(codecs);
    add_default_constructible<std::bad_typeid>(codecs);
    add_default_constructible<std::bad_function_call>(codecs);
    add_default_constructible<std::bad_optional_access>(codecs);
    add_default_constructible<std::bad_variant_access>(codecs);
    add_default_constructible<std::bad_weak_ptr>(codecs);
    add_from_message<std::logic_error>(codecs);
    add_from_message<std::domain_error>(codecs);
    add_from_message<std::invalid_argument>(codecs);
    add_from_message<std::length_error>(codecs);
    add_from_message<std::out_of_range>(codecs);
    add_from_message<std::runtime_error>(codecs);
    add_from_message<std::range_error>(codecs);
    add_from_message<std::overflow_error>(codecs);
    add_from_message<std::underflow_error>(codecs);
    add_from_message<SerializationError>(codecs);
    add_from_message<cereal::Exception>(codecs);
    add_with_code<std::system_error>(codecs);
    add_with_code<std::ios_base::failure>(codecs);
    add_with_code<std::future_error>(codecs);
    add_special(codecs);
    return codecs;
}

std::mutex codecs_mutex;
// A child of fork() must not inherit the mutex locked by a thread that it does not have.
[[maybe_unused]] const int at_fork = pthread_atfork(
    [] { codecs_mutex.lock(); }, [] { codecs_mutex.unlock(); }, [] { codecs_mutex.unlock(); });

// Requires: codecs_mutex is locked.
Codecs& known_codecs() {
    static constinit Codecs* known = nullptr;  // never destroyed: errors may be read at the end
    if (!known) known = new Codecs(standard_codecs());
    return *known;
}

std::optional<ExceptionCodec> find_codec(const std::string& name) {
    std::lock_guard lock(codecs_mutex);
    Codecs& known = known_codecs();
    auto found = known.find(name);
    return found == known.end() ? std::nullopt : std::optional(found->second);
}

// What std::throw_with_nested(e) throws is a private class of the library, derived from e's class
// and std::nested_exception, in this order. Returns the former's type, or null if it is not such a
// class.
const std::type_info* type_with_nested(const std::type_info& type) {
    bool is_private = std::strncmp(type.name(), "St17_Nested_exceptionI", 22) == 0 ||  // libstdc++
                      std::strncmp(type.name(), "St8__nestedI", 12) == 0;              // libc++
    // abi::__vmi_class_type_info, which libc++ declares nowhere: the Itanium C++ ABI lays it out
    // (2.9.5, "RTTI layout").
    struct ClassInfo {
        const void* vtable;
        const char* name;
        unsigned flags, bases;
        const std::type_info* first_base;
    };
    bool is_class = std::strcmp(typeid(type).name(), "N10__cxxabiv121__vmi_class_type_infoE") == 0;
    if (!is_private || !is_class) return nullptr;
    ClassInfo info;
    std::memcpy(&info, static_cast<const void*>(&type), sizeof info);
    return info.bases == 2 ? info.first_base : nullptr;
}

// The type_info::name() of what was thrown: what already crossed once is a Remote<T>.
const char* thrown_type(const std::exception& error) {
    if (auto* remote = dynamic_cast<const RemoteInfo*>(&error)) return remote->type().c_str();
    auto* wrapped = type_with_nested(typeid(error));
    return wrapped ? wrapped->name() : typeid(error).name();
}

// The name under which the exception's type is known: what libstdc++ throws for streams is a
// private class derived from the public one.
std::string public_type(const std::exception& error) {
    std::string type = thrown_type(error);
    bool known = find_codec(type).has_value();
    if (!known && dynamic_cast<const std::ios_base::failure*>(&error))
        return typeid(std::ios_base::failure).name();
    return type;
}

// What is being handled, if it is not a std::exception.
std::string describe_foreign() {
    try {
        throw;
    } catch (const char* text) {
        return text ? text : "";  // a thrown nullptr comes here too
    } catch (const std::string& text) {
        return text;
    } catch (int value) {
        return std::to_string(value);
    } catch (...) {
        return {};
    }
}

struct Description {
    std::string type;  // type_info::name()
    std::string message;
    const std::exception* error = nullptr;
    std::exception_ptr nested;
};

Description describe_current() {
    Description d;
    const std::type_info* type = abi::__cxa_current_exception_type();
    d.type = type ? type->name() : "unknown";
    try {
        throw;
    } catch (const std::exception& error) {
        d.type = public_type(error);
        const char* text = error.what();
        d.message = text ? text : "";
        d.error = &error;
        if (auto* outer = dynamic_cast<const std::nested_exception*>(&error))
            d.nested = outer->nested_ptr();
    } catch (...) {
        d.message = describe_foreign();
    }
    return d;
}

// A line for each level that is wrapped.
std::string describe_nested(std::exception_ptr nested) {
    std::string lines;
    for (int depth = 0; nested && depth < kMaxNesting; ++depth) {
        try {
            std::rethrow_exception(nested);
        } catch (...) {
            Description d = describe_current();
            lines += fmt::format("which wraps {}: {}\n", demangle(d.type.c_str()), d.message);
            nested = d.nested;
        }
    }
    return lines;
}

void save_level(OutputArchive& archive, const std::string& where, int depth);

void save_nested(OutputArchive& archive, const std::exception_ptr& nested, const std::string& where,
                 int depth) {
    bool has_nested = nested && depth < kMaxNesting;
    archive(has_nested);
    if (!has_nested) return;
    try {
        std::rethrow_exception(nested);
    } catch (...) {
        save_level(archive, where, depth + 1);
    }
}

// Layout: type, message, traceback, has_nested [level], size of the state, state.
void save_level(OutputArchive& archive, const std::string& where, int depth) {
    Description d = describe_current();
    std::string name = demangle(d.type.c_str());
    std::string traceback =
        fmt::format("{}: {}\n", name, d.message) + where + describe_nested(d.nested);
    if (d.error && !remote_traceback(*d.error).empty())
        traceback += "which it got from\n" + remote_traceback(*d.error);
    archive(d.type, d.message, traceback);
    save_nested(archive, d.nested, where, depth);
    HeapBuffer state;
    if (auto codec = find_codec(d.type); codec && d.error) {
        try {
            OutputArchive inner(state);
            codec->save(*d.error, inner);
        } catch (...) {
            state.clear();  // its own `serialize` threw: the text still goes
        }
    }
    archive(static_cast<std::uint64_t>(state.size()));
    archive.write(state.begin(), state.size());
}

// The same layout, with no more than type and message, which are cut to the room that there is. So
// nothing is allocated, but what the archive needs for less than kBareBytes.
void save_bare(OutputArchive& archive, std::string_view type, std::string_view message) {
    constexpr std::size_t kBareBytes = 152;  // what a task's reply has room for
    constexpr std::size_t kSizes = 4 * sizeof(std::uint64_t) + 1;
    const OutputBuffer& buffer = archive.buffer();
    std::size_t room = std::max(buffer.capacity() - buffer.size(), kBareBytes) - kSizes;
    type = type.substr(0, room);
    message = message.substr(0, room - type.size());
    for (std::string_view text : {type, message, std::string_view()}) {
        archive(static_cast<std::uint64_t>(text.size()));
        archive.write(text.data(), text.size());
    }
    archive(false, std::uint64_t(0));
}

void save_current_bare(OutputArchive& archive) {
    const std::type_info* type = abi::__cxa_current_exception_type();
    const char* name = type ? type->name() : "unknown";
    try {
        throw;
    } catch (const std::exception& error) {
        const char* text = error.what();
        save_bare(archive, thrown_type(error), text ? text : "");
    } catch (const char* text) {
        save_bare(archive, name, text ? text : "");
    } catch (const std::string& text) {
        save_bare(archive, name, text);
    } catch (...) {
        save_bare(archive, name, "");
    }
}

std::exception_ptr load_level(InputArchive& archive, int depth) {
    RemoteText text;
    bool has_nested = false;
    archive(text.type, text.message, text.traceback, has_nested);
    if (has_nested && depth >= kMaxNesting)
        throw SerializationError("cannot deserialize: an exception nested too deeply");
    if (has_nested) text.nested = load_level(archive, depth + 1);
    std::uint64_t size = 0;
    archive(size);
    auto state = archive.view(static_cast<std::size_t>(size));
    RemoteError fallback(demangle(text.type.c_str()), text.message, text.traceback);
    if (auto codec = find_codec(text.type)) {
        try {
            InputArchive inner(state);
            std::exception_ptr error = codec->load(inner, std::move(text));
            inner.expect_end();
            return error;
        } catch (const std::bad_alloc&) {  // here and now: it is of that type all the same
            throw;
        } catch (...) {  // the state could not be read: the text still arrives
        }
    }
    return std::make_exception_ptr(fallback);
}

}  // namespace

bool add_exception_codec(const std::type_info& type, ExceptionCodec codec) {
    std::lock_guard lock(codecs_mutex);
    known_codecs().emplace(type.name(), codec);
    return true;
}

void save_current_exception(OutputArchive& archive, const std::string& where) {
    const std::size_t begin = archive.buffer().size();
    const std::exception_ptr thrown = std::current_exception();
    try {
        return save_level(archive, where, 0);
    } catch (...) {  // memory for all of it was not to be had
        archive.buffer().truncate(begin);
    }
    try {
        std::rethrow_exception(thrown);
    } catch (...) {
        save_current_bare(archive);
    }
}

std::exception_ptr load_exception(InputArchive& archive) { return load_level(archive, 0); }

}  // namespace detail
}  // namespace sidestep

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

std::string remote_type_name(const std::exception& error) {
    if (auto* unknown = dynamic_cast<const RemoteError*>(&error)) return unknown->type_name();
    auto* info = dynamic_cast<const detail::RemoteInfo*>(&error);
    return info ? demangle(info->type().c_str()) : std::string();
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

// --- types, as the Itanium C++ ABI lays them out (2.9.5, "RTTI layout") ----------------------
// (libc++ declares its classes nowhere.)

struct ClassInfo {  // of a class without bases; others begin so
    const void* vtable;
    const char* name;
};
struct SingleBaseInfo : ClassInfo {
    const std::type_info* base;  // public, not virtual
};
struct BaseInfo {
    const std::type_info* type;
    long flags;
};
struct ManyBasesInfo : ClassInfo {
    unsigned flags, count;
    BaseInfo bases[1];  // as many as `count`
};
constexpr long kPublicBase = 2;

// The bases that a handler of the class may name, in their order.
std::vector<const std::type_info*> public_bases(const std::type_info& type) {
    const char* kind = typeid(type).name();
    auto* info = static_cast<const void*>(&type);
    // (libstdc++ has a type_info of its own for what its streams throw, derived from the first.)
    if (std::strcmp(kind, "N10__cxxabiv120__si_class_type_infoE") == 0 ||
        std::strcmp(kind, "St19__iosfail_type_info") == 0)
        return {static_cast<const SingleBaseInfo*>(info)->base};
    std::vector<const std::type_info*> bases;
    if (std::strcmp(kind, "N10__cxxabiv121__vmi_class_type_infoE") != 0) return bases;
    auto* many = static_cast<const ManyBasesInfo*>(info);
    for (const BaseInfo* base = many->bases; base != many->bases + many->count; ++base)
        if ((base->flags & kPublicBase) != 0) bases.push_back(base->type);
    return bases;
}

// What std::throw_with_nested(e) throws is a private class of the library, derived from e's class
// and std::nested_exception, in this order. Returns the former's type, or null if it is not such a
// class.
const std::type_info* type_with_nested(const std::type_info& type) {
    bool is_private = std::strncmp(type.name(), "St17_Nested_exceptionI", 22) == 0 ||  // libstdc++
                      std::strncmp(type.name(), "St8__nestedI", 12) == 0;              // libc++
    if (!is_private) return nullptr;
    auto bases = public_bases(type);
    return bases.size() == 2 ? bases.front() : nullptr;
}

// The type_info::name() of what was thrown: what already crossed once is a Remote<T>.
const char* thrown_type(const std::exception& error) {
    if (auto* remote = dynamic_cast<const RemoteInfo*>(&error)) return remote->type().c_str();
    auto* wrapped = type_with_nested(typeid(error));
    return wrapped ? wrapped->name() : typeid(error).name();
}

// As what the exception arrives: its type, or else the nearest base of it that is known. Empty if
// that is std::exception alone, which tells less than a RemoteError, or if there is none.
std::string arriving_type(const std::exception& error) {
    std::vector<const std::type_info*> level{&typeid(error)};
    while (!level.empty()) {
        std::vector<const std::type_info*> above;
        for (const std::type_info* type : level) {
            const bool plain = *type == typeid(std::exception);
            if (plain && std::strcmp(thrown_type(error), type->name()) != 0) continue;
            if (find_codec(type->name())) return type->name();
            for (const std::type_info* base : public_bases(*type)) above.push_back(base);
        }
        level = std::move(above);
    }
    return {};
}

// What is being handled, if it is not a std::exception.
template <class... T>
std::string describe_number() {
    std::string text;
    auto is = [&]<class Number>(const Number*) {
        try {
            throw;
        } catch (Number value) {
            text = fmt::format("{}", value);
            return true;
        } catch (...) {
            return false;
        }
    };
    (void)(is(static_cast<const T*>(nullptr)) || ...);
    return text;
}
std::string describe_foreign(const std::string& type) {
    try {
        throw;
    } catch (const char* text) {
        if (text) return text;  // a thrown nullptr comes here too
    } catch (const std::string& text) {
        return text;
    } catch (std::string_view text) {
        return std::string(text);
    } catch (const std::error_code& code) {
        return fmt::format("{} ({}:{})", code.message(), code.category().name(), code.value());
    } catch (...) {
    }
    std::string number = describe_number<bool, char, int, unsigned, long, unsigned long, long long,
                                         unsigned long long, float, double>();
    return number.empty() ? fmt::format("an object of type {}, which is no std::exception", type)
                          : number;
}

struct Description {
    std::string type;        // type_info::name()
    std::string arrives_as;  // another one that is known, a base of it; or empty
    std::string message;
    const std::exception* error = nullptr;
    std::exception_ptr nested;

    const std::string& codec() const { return arrives_as.empty() ? type : arrives_as; }
    // What libstdc++ throws for streams is a private class derived from the public one.
    std::string name() const {
        return demangle((type.starts_with("St13__") ? codec() : type).c_str());
    }
};

Description describe_current() {
    Description d;
    const std::type_info* type = abi::__cxa_current_exception_type();
    d.type = type ? type->name() : "unknown";
    try {
        throw;
    } catch (const std::exception& error) {
        d.type = thrown_type(error);
        d.arrives_as = arriving_type(error);
        if (d.arrives_as == d.type) d.arrives_as.clear();
        const char* text = error.what();
        d.message = text ? text : "";
        d.error = &error;
        if (auto* outer = dynamic_cast<const std::nested_exception*>(&error))
            d.nested = outer->nested_ptr();
    } catch (...) {
        d.message = describe_foreign(demangle(d.type.c_str()));
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
            lines += fmt::format("which wraps {}: {}\n", d.name(), d.message);
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

// Layout: type, as what it arrives, message, traceback, has_nested [level], size of the state,
//         state.
void save_level(OutputArchive& archive, const std::string& where, int depth) {
    Description d = describe_current();
    std::string traceback =
        fmt::format("{}: {}\n", d.name(), d.message) + where + describe_nested(d.nested);
    if (d.error && !remote_traceback(*d.error).empty())
        traceback += "which it got from\n" + remote_traceback(*d.error);
    archive(d.type, d.arrives_as, d.message, traceback);
    save_nested(archive, d.nested, where, depth);
    HeapBuffer state;
    if (auto codec = find_codec(d.codec()); codec && d.error) {
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
    constexpr std::size_t kSizes = 5 * sizeof(std::uint64_t) + 1;
    const OutputBuffer& buffer = archive.buffer();
    std::size_t room = std::max(buffer.capacity() - buffer.size(), kBareBytes) - kSizes;
    type = type.substr(0, room);
    message = message.substr(0, room - type.size());
    for (std::string_view text : {type, std::string_view(), message, std::string_view()}) {
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
    std::string arrives_as;
    archive(text.type, arrives_as, text.message, text.traceback, has_nested);
    if (has_nested && depth >= kMaxNesting)
        throw SerializationError("cannot deserialize: an exception nested too deeply");
    if (has_nested) text.nested = load_level(archive, depth + 1);
    std::uint64_t size = 0;
    archive(size);
    auto state = archive.view(static_cast<std::size_t>(size));
    RemoteError fallback(demangle(text.type.c_str()), text.message, text.traceback);
    if (auto codec = find_codec(arrives_as.empty() ? text.type : arrives_as)) {
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

#include <sidestep/detail/sent_call.hpp>

#include <fmt/format.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "text/demangle.hpp"
#include "travel/module_table.hpp"

namespace sidestep::inline v0::detail {

CodeAddress locate_code(const void* function) {
    ModuleAddress at = locate(function);
    return {at.module, at.offset};
}

std::uint64_t check_word(const CodeAddress& address, std::uint64_t signature) noexcept {
    std::uint64_t word = signature;
    for (std::uint64_t part : {address.module, address.offset}) {
        word = (word ^ part) * 0x9e3779b97f4a7c15u;  // an odd constant: nothing is lost
        word ^= word >> 32;
    }
    return word;
}

void throw_function_refused() {
    throw SerializationError(
        "cannot deserialize: a bind() of a function pointer came in a message, a result or an "
        "item of a queue, where anybody could name any function; pass it as an argument of a task "
        "or a Process, or bind() a captureless lambda or a functor instead");
}

void throw_function_damaged() {
    throw SerializationError(
        "cannot deserialize: a function pointer is damaged, or the function is of another type "
        "than the one that is read");
}

const void* resolve_code(const CodeAddress& address) {
    const void* code = resolve({address.module, address.offset}, Contents::code, 1);
    if (!code)
        throw SerializationError(
            fmt::format("a function that was named to this process ({}) is not in it: {}",
                        ::getpid(), why_unresolved({address.module, address.offset})));
    return code;
}

namespace {

// Where the C++ ABI has the mark of a virtual function, and its offset in the vtable: the Itanium
// ABI in the pointer (2.3), since functions have even addresses; AArch64's and Arm's (GenC++ABI
// 3.2.1, where they may be odd) in the adjustment, which is doubled.
#if defined(__aarch64__) || defined(__arm__)
constexpr bool kMarkInAdjustment = true;
#else
constexpr bool kMarkInAdjustment = false;
#endif

bool is_virtual(const MemberWords& words) noexcept {
    return ((kMarkInAdjustment ? words[1] : words[0]) & 1) != 0;
}

}  // namespace

MemberAddress locate_member(const MemberWords& words) {
    MemberAddress address;
    address.adjustment = words[1];
    address.is_virtual = is_virtual(words);
    if (address.is_virtual)
        address.entry = words[0];
    else
        address.where = locate_code(reinterpret_cast<const void*>(words[0]));
    return address;
}

MemberWords resolve_member(const MemberAddress& address) {
    MemberWords words{address.entry, address.adjustment};
    if (!address.is_virtual)
        words[0] = reinterpret_cast<std::uint64_t>(resolve_code(address.where));
    if (is_virtual(words) != (address.is_virtual != 0)) throw_function_damaged();
    return words;
}

std::uint64_t check_word(const MemberAddress& address, std::uint64_t signature) noexcept {
    return check_word(CodeAddress{address.entry ^ address.is_virtual << 63, address.adjustment},
                      check_word(address.where, signature));
}

const void* member_function(const MemberWords& words) noexcept {
    return is_virtual(words) ? nullptr : reinterpret_cast<const void*>(words[0]);
}

void rethrow_unread(const char* what) {
    auto with = [what](const std::exception& error) {
        return SerializationError(fmt::format("{} could not be read: {}", what, error.what()));
    };
    try {
        throw;
    } catch (const SerializationError& error) {
        throw with(error);
    } catch (const cereal::Exception& error) {
        throw with(error);
    }
}

void rethrow_argument_unread(std::size_t before, std::size_t count) {
    rethrow_unread(fmt::format("argument {} of {}", before + 1, count).c_str());
}

TaskId identify(const TaskEntry& entry) {
    ModuleAddress at = locate(&entry);
    return {{at.module, at.offset}, entry.signature};
}

const TaskEntry* find_entry(const TaskId& id) {
    const void* at =
        resolve({id.where.module, id.where.offset}, Contents::constants, sizeof(TaskEntry));
    if (!at || reinterpret_cast<std::uintptr_t>(at) % alignof(TaskEntry) != 0) return nullptr;
    auto* entry = static_cast<const TaskEntry*>(at);
    bool genuine = entry->magic == TaskEntry::kMagic && entry->signature == id.signature;
    return genuine ? entry : nullptr;
}

const TaskEntry& require_entry(const TaskId& id, std::string_view whose) {
    if (const TaskEntry* entry = find_entry(id)) return *entry;
    throw SerializationError(fmt::format("the code of {} is not in this process ({}): {}", whose,
                                         ::getpid(),
                                         why_unresolved({id.where.module, id.where.offset})));
}

std::unique_ptr<SentCall> load_sent_call(const TaskId& id, std::string_view whose,
                                         InputArchive& archive) {
    const TaskEntry& entry = require_entry(id, whose);
    if (!entry.load)
        throw SerializationError(fmt::format(
            "the code of {} is that of a task with a result ({}): the bytes are damaged", whose,
            describe_entry(entry)));
    return entry.load(archive);
}

std::string describe_entry(const TaskEntry& entry) {
    // "constexpr const char* sidestep::detail::type_text() [with T = BODY]", clang: "[T = BODY]".
    std::string_view printed = entry.type_name;
    std::size_t begin = printed.find("T = ");
    if (begin != printed.npos) printed = printed.substr(begin + 4, printed.rfind(']') - begin - 4);
    std::string text = readable_name(printed);
    for (const char* prefix : {"sidestep::detail::", "sidestep::"}) {
        std::size_t length = std::strlen(prefix);
        for (std::size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, length);
    }
    return text;
}

}  // namespace sidestep::detail

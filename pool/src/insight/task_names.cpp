#include "insight/task_names.hpp"

#include <new>

#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {

TaskLabel TaskNames::label(const TaskEntry& entry, const void* function) noexcept {
    if (last_type_ && last_signature_ == entry.signature) return {last_type_, function};
    try {
        std::string& type = types_[entry.signature];
        if (type.empty()) type = describe_entry(entry);
        last_type_ = &type;
        last_signature_ = entry.signature;
        return {last_type_, function};
    } catch (const std::bad_alloc&) {
        return {nullptr, function};
    }
}

TaskLabel TaskNames::label(const std::type_info& type) noexcept {
    try {
        std::string& name = types_[type.hash_code()];
        if (name.empty()) name = demangle(type.name());
        return {&name, nullptr};
    } catch (const std::bad_alloc&) {
        return {};
    }
}

std::string TaskNames::name(const TaskLabel& label) {
    if (!label.function) return label.type ? *label.type : std::string();
    std::lock_guard lock(mutex_);
    std::string& name = functions_[label.function];
    if (name.empty()) name = describe_function(label.function);
    return name;
}

}  // namespace sidestep::detail

#include "insight/task_names.hpp"

#include <new>

#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {

namespace {

std::shared_ptr<const std::string> shared_name(const std::string& own) noexcept {
    try {
        return own.empty() ? nullptr : std::make_shared<const std::string>(own);
    } catch (const std::bad_alloc&) {  // it goes by its function's name
        return nullptr;
    }
}

}  // namespace

TaskLabel TaskNames::label(const TaskEntry& entry, const void* function,
                           const std::string* own) noexcept {
    TaskLabel label{own ? shared_name(*own) : nullptr, last_type_, function};
    if (last_type_ && last_signature_ == entry.signature) return label;
    try {
        std::string& type = types_[entry.signature];
        if (type.empty()) type = describe_entry(entry);
        last_type_ = &type;
        last_signature_ = entry.signature;
        label.type = last_type_;
    } catch (const std::bad_alloc&) {
        label.type = nullptr;
    }
    return label;
}

TaskLabel TaskNames::label(const std::type_info& type, const std::string& own) noexcept {
    try {
        std::string& name = types_[type.hash_code()];
        if (name.empty()) name = demangle(type.name());
        return {shared_name(own), &name, nullptr};
    } catch (const std::bad_alloc&) {
        return {};
    }
}

std::string TaskNames::name(const TaskLabel& label) {
    if (label.own) return *label.own;
    if (!label.function) return label.type ? *label.type : std::string();
    std::lock_guard lock(mutex_);
    std::string& name = functions_[label.function];
    if (name.empty()) name = describe_function(label.function);
    return name;
}

}  // namespace sidestep::detail

#include "start/init_place.hpp"

#include <dlfcn.h>
#include <link.h>
#include <unwind.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <string_view>
#include <vector>

#include <sidestep/init.hpp>

namespace sidestep::inline v0 {
namespace {

// Where the C library calls constructors: in the loop for the program's, and in that for
// libraries'. More than a few there are not. Relaxed: each stands alone, and libraries may be
// loaded by threads.
constinit std::array<std::atomic<const void*>, 8> constructor_callers = {};

bool calls_constructors(const void* address) {
    // The outermost frame returns to nowhere, as an empty place.
    return address &&
           std::any_of(constructor_callers.begin(), constructor_callers.end(),
                       [&](const auto& a) { return a.load(std::memory_order_relaxed) == address; });
}

_Unwind_Reason_Code look_at_frame(_Unwind_Context* frame, void* found) {
    auto* address = reinterpret_cast<const void*>(_Unwind_GetIP(frame));
    if (!calls_constructors(address)) return _URC_NO_REASON;
    *static_cast<bool*>(found) = true;
    return _URC_END_OF_STACK;
}

// --- libraries that came later -------------------------------------------------------------------

std::string_view file_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

// What a loaded module says of itself, and what it asks for.
struct Dynamic {
    explicit Dynamic(const link_map& module) {
        for (const ElfW(Dyn)* d = module.l_ld; d && d->d_tag != DT_NULL; ++d)
            if (d->d_tag == DT_STRTAB) {
                ElfW(Addr) at = d->d_un.d_ptr;  // relocated by now, on most machines
                if (at < module.l_addr) at += module.l_addr;
                strings = reinterpret_cast<const char*>(at);
            }
        for (const ElfW(Dyn)* d = module.l_ld; d && strings && d->d_tag != DT_NULL; ++d) {
            if (d->d_tag == DT_SONAME) name = strings + d->d_un.d_val;
            if (d->d_tag == DT_NEEDED) needed.push_back(strings + d->d_un.d_val);
        }
    }
    const char* strings = nullptr;
    std::string_view name;
    std::vector<std::string_view> needed;
};

// The program needs it, by itself or by way of others.
bool belongs_to_program(link_map& module) {
    link_map* program = &module;
    while (program->l_prev) program = program->l_prev;
    std::vector<const link_map*> reached = {program};
    for (std::size_t i = 0; i < reached.size(); ++i) {
        Dynamic asks(*reached[i]);
        for (const link_map* other = program; other; other = other->l_next) {
            if (std::find(reached.begin(), reached.end(), other) != reached.end()) continue;
            std::string_view path = other->l_name ? other->l_name : "", name = Dynamic(*other).name;
            bool wanted =
                std::any_of(asks.needed.begin(), asks.needed.end(), [&](std::string_view want) {
                    return want == name || want == path || want == file_name(path);
                });
            if (wanted) reached.push_back(other);
        }
    }
    return std::find(reached.begin(), reached.end(), &module) != reached.end();
}

InitPlace& noted_place() {
    static InitPlace* const place = new InitPlace;  // never destroyed: exit hooks start processes
    return *place;
}

}  // namespace

namespace detail {

void note_constructor_caller(const void* caller) noexcept {
    for (std::atomic<const void*>& place : constructor_callers) {
        const void* known = nullptr;
        if (place.compare_exchange_strong(known, caller, std::memory_order_relaxed) ||
            known == caller)
            return;
    }
}

}  // namespace detail

void note_init_place(const void* return_address) {
    InitPlace& place = noted_place();
    (void)_Unwind_Backtrace(look_at_frame, &place.before_main);
    Dl_info info = {};
    link_map* module = nullptr;
    if (::dladdr1(return_address, &info, reinterpret_cast<void**>(&module), RTLD_DL_LINKMAP) != 0 &&
        module && !belongs_to_program(*module))
        place.library = module->l_name;
}

const InitPlace& init_place() noexcept { return noted_place(); }

}  // namespace sidestep

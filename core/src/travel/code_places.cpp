#include "travel/code_places.hpp"

#include <dlfcn.h>
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwfl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string_view>

#include <sidestep/task.hpp>

#include "text/demangle.hpp"

namespace sidestep::inline v0::detail {
namespace {

// Names come from the modules alone. Where the environment says so (DEBUGINFOD_URLS), libdwfl's own
// way asks servers for more: it waits for them, and writes and reads files at a place that the
// environment names. That is no way for a message, and a hole in a program with privileges.
int find_no_debuginfo(Dwfl_Module*, void**, const char*, Dwarf_Addr, const char*, const char*,
                      GElf_Word, char**) {
    return -1;
}

using Session = std::unique_ptr<Dwfl, decltype(&dwfl_end)>;
Session this_process() {
    static const Dwfl_Callbacks callbacks = {dwfl_linux_proc_find_elf, find_no_debuginfo, nullptr,
                                             nullptr};
    Session session(dwfl_begin(&callbacks), &dwfl_end);
    if (session && (dwfl_linux_proc_report(session.get(), getpid()) != 0 ||
                    dwfl_report_end(session.get(), nullptr, nullptr) != 0))
        session.reset();
    return session;
}

std::string without_folders(const char* path) {
    std::string_view text = path ? path : "";
    return std::string(text.substr(text.rfind('/') + 1));
}

// The scopes around an address, from the innermost function or inlined one outwards.
class Scopes {
  public:
    Scopes(Dwfl_Module* module, Dwarf_Addr at) {
        Dwarf_Addr bias = 0;
        unit_ = dwfl_module_addrdie(module, at, &bias);
        if (!unit_) return;
        Dwarf_Die* found = nullptr;
        const int count = dwarf_getscopes(unit_, at - bias, &found);
        const std::unique_ptr<Dwarf_Die, decltype(&std::free)> owned(found, &std::free);
        Dwarf_Die innermost;
        // Those of `found` that are outside an inlined function are where that was defined.
        if (count <= 0 ||
            !dwarf_offdie(dwfl_module_getdwarf(module, &bias), dwarf_dieoffset(found), &innermost))
            return;
        count_ = dwarf_getscopes_die(&innermost, &dies_);
        if (dwarf_getsrcfiles(unit_, &files_, nullptr) != 0) files_ = nullptr;
    }
    ~Scopes() { std::free(dies_); }
    Scopes(const Scopes&) = delete;
    Scopes& operator=(const Scopes&) = delete;

    // The place of the innermost function is `place`'s; `symbol` covers them all.
    void add(std::vector<CodePlace>& places, CodePlace place, const std::string& symbol) const {
        if (count_ <= 0) {  // then the line may be that of a function that is inlined there
            place.file.clear();
            place.line = 0;
        }
        for (int i = 0; i < count_; ++i) {
            Dwarf_Die* die = &dies_[i];
            if (dwarf_tag(die) == DW_TAG_subprogram) break;
            if (dwarf_tag(die) != DW_TAG_inlined_subroutine) continue;
            place.function = name(die);
            places.push_back(place);
            place.file = files_ ? without_folders(dwarf_filesrc(
                                      files_, number(die, DW_AT_call_file), nullptr, nullptr))
                                : std::string();
            place.line = static_cast<int>(number(die, DW_AT_call_line));
        }
        place.function = symbol;
        places.push_back(std::move(place));
    }

  private:
    static std::size_t number(Dwarf_Die* die, unsigned attribute) {
        Dwarf_Attribute memory;
        Dwarf_Word value = 0;
        dwarf_formudata(dwarf_attr(die, attribute, &memory), &value);
        return static_cast<std::size_t>(value);
    }
    static std::string name(Dwarf_Die* die) {
        Dwarf_Attribute memory;
        const char* linkage =
            dwarf_formstring(dwarf_attr_integrate(die, DW_AT_linkage_name, &memory));
        if (linkage) return demangle(linkage);
        // What is of one file alone has no linkage name: where it was defined has.
        Dwarf_Die origin;
        Dwarf_Attribute* of = dwarf_attr(die, DW_AT_abstract_origin, &memory);
        if (!of || !dwarf_formref_die(of, &origin)) return {};
        Dwarf_Die declared;  // in its class
        Dwarf_Attribute* as = dwarf_attr(&origin, DW_AT_specification, &memory);
        return readable_name(
            qualified_name(as && dwarf_formref_die(as, &declared) ? &declared : &origin));
    }
    static std::string qualified_name(Dwarf_Die* die) {
        Dwarf_Die* around = nullptr;
        const int count = dwarf_getscopes_die(die, &around);
        const std::unique_ptr<Dwarf_Die, decltype(&std::free)> owned(around, &std::free);
        std::string text;
        for (int i = 0; i + 1 < count; ++i) {  // the last is the file
            Dwarf_Attribute memory;
            // What is declared in a namespace may be defined outside of it, but has this name.
            const char* linkage =
                dwarf_formstring(dwarf_attr_integrate(&around[i], DW_AT_linkage_name, &memory));
            const char* name = dwarf_diename(&around[i]);
            const std::string part = linkage ? demangle(linkage) : name ? name : "";
            if (!part.empty()) text = text.empty() ? part : fmt::format("{}::{}", part, text);
            if (linkage) break;
        }
        return text;
    }

    Dwarf_Die* unit_ = nullptr;
    Dwarf_Die* dies_ = nullptr;
    int count_ = 0;
    Dwarf_Files* files_ = nullptr;
};

}  // namespace

std::vector<CodePlace> code_places(std::span<const void* const> addresses) {
    std::vector<CodePlace> places;
    const Session session = this_process();
    for (const void* address : addresses) {
        CodePlace place;
        place.address = address;
        auto at = reinterpret_cast<std::uintptr_t>(address);
        Dwfl_Module* module = session ? dwfl_addrmodule(session.get(), at) : nullptr;
        const char* symbol = module ? dwfl_module_addrname(module, at) : nullptr;
        if (!symbol) {
            Dl_info info = {};
            if (dladdr(address, &info) != 0 && info.dli_fname) place.file = info.dli_fname;
            places.push_back(std::move(place));
            continue;
        }
        if (Dwfl_Line* line = dwfl_module_getsrc(module, at))
            place.file = without_folders(
                dwfl_lineinfo(line, nullptr, &place.line, nullptr, nullptr, nullptr));
        Scopes(module, at).add(places, std::move(place), demangle(symbol));
    }
    return places;
}

std::string describe(const CodePlace& place) {
    if (!place.function.empty())
        return place.file.empty()
                   ? place.function
                   : fmt::format("{} at {}:{}", place.function, place.file, place.line);
    Dl_info info = {};
    if (dladdr(place.address, &info) == 0 || !info.dli_fname)
        return fmt::format("{}", place.address);
    auto offset = reinterpret_cast<std::uintptr_t>(place.address) -
                  reinterpret_cast<std::uintptr_t>(info.dli_fbase);
    return fmt::format("function at {:#x} of {}", offset, info.dli_fname);
}

std::string describe_function(const void* function) {
    CodePlace place;
    place.address = function;
    const Session session = this_process();
    auto at = reinterpret_cast<std::uintptr_t>(function);
    Dwfl_Module* module = session ? dwfl_addrmodule(session.get(), at) : nullptr;
    if (const char* symbol = module ? dwfl_module_addrname(module, at) : nullptr)
        place.function = demangle(symbol);
    return describe(place);
}

}  // namespace sidestep::detail

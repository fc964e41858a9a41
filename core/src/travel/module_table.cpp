#include "travel/module_table.hpp"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>
#include <sys/auxv.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "travel/module_id.hpp"

namespace sidestep::inline v0 {
namespace {

struct Range {
    std::uintptr_t begin = 0, end = 0;

    bool holds(std::uintptr_t address) const { return address >= begin && address < end; }
};

struct LoadSegment : Range {
    bool code = false, constants = false;
};

struct Module {
    std::uint64_t id = 0;
    std::uintptr_t base = 0;
    std::string name;
    std::vector<LoadSegment> segments;
    Range read_only_later;  // part of a segment that can be written until it is relocated
    bool has_double = false;

    bool holds(std::uintptr_t address) const {
        return std::any_of(segments.begin(), segments.end(),
                           [&](const LoadSegment& s) { return s.holds(address); });
    }
    // Where what lies at the address and is of that kind ends; 0 if nothing does.
    std::uintptr_t end_of(std::uintptr_t address, Contents contents) const {
        for (const LoadSegment& s : segments) {
            if (!s.holds(address)) continue;
            if (contents == Contents::code ? s.code : s.constants) return s.end;
        }
        bool later = contents == Contents::constants && read_only_later.holds(address);
        return later ? read_only_later.end : 0;
    }
};

struct Table {
    std::vector<Module> modules;
    unsigned long long loaded = 0, closed = 0;  // how often a library was, until now
    const Table* older = nullptr;  // keeps it reachable: no leak, to those who look for leaks
};

Module describe(const dl_phdr_info& info) {
    Module module;
    module.base = info.dlpi_addr;
    module.name = module_name(info);
    for (int i = 0; i < info.dlpi_phnum; ++i) {
        const ElfW(Phdr)& header = info.dlpi_phdr[i];
        std::uintptr_t begin = info.dlpi_addr + header.p_vaddr;
        Range range = {begin, begin + header.p_memsz};
        if (header.p_type == PT_GNU_RELRO) module.read_only_later = range;
        if (header.p_type != PT_LOAD) continue;
        bool readable = (header.p_flags & PF_R) != 0, writable = (header.p_flags & PF_W) != 0;
        module.segments.push_back({range, (header.p_flags & PF_X) != 0, readable && !writable});
    }
    // Linked with -z norelro: constants with addresses in them lie among the variables.
    if (module.read_only_later.end == 0)
        for (LoadSegment& s : module.segments) s.constants |= !s.code;
    return module;
}

struct Scan {
    const Table* known = nullptr;
    std::unique_ptr<Table> fresh;  // null: nothing has changed since `known`
};

// The id of a module that is in the known table too.
std::optional<std::uint64_t> known_id(const Scan& scan, const Module& module) {
    if (!scan.known || scan.known->closed != scan.fresh->closed) return {};
    for (const Module& m : scan.known->modules)
        if (m.base == module.base && m.name == module.name) return m.id;
    return {};
}

int add_module(dl_phdr_info* info, std::size_t, void* data) {
    auto& scan = *static_cast<Scan*>(data);
    const Table* known = scan.known;
    if (known && known->loaded == info->dlpi_adds && known->closed == info->dlpi_subs) return 1;
    if (!scan.fresh) scan.fresh = std::make_unique<Table>();
    scan.fresh->loaded = info->dlpi_adds;
    scan.fresh->closed = info->dlpi_subs;
    Module module = describe(*info);
    bool has_code = std::any_of(module.segments.begin(), module.segments.end(),
                                [](const LoadSegment& s) { return s.code; });
    // The vDSO belongs to the kernel: nothing of a program lies in it.
    if (!has_code || module.holds(::getauxval(AT_SYSINFO_EHDR))) return 0;
    std::optional<std::uint64_t> id = known_id(scan, module);
    module.id = id ? *id : module_id(*info);
    for (Module& other : scan.fresh->modules)
        if (other.id == module.id) other.has_double = module.has_double = true;
    scan.fresh->modules.push_back(std::move(module));
    return 0;
}

// The modules as last seen. Replaced as a whole and never freed (a reader may hold it, and a forked
// child must find it unlocked); that costs a few hundred bytes for each dlopen() that brought
// tasks. SYNC(modules): release when published, acquire when read.
std::atomic<const Table*> known_modules{nullptr};

// Calls search(modules), once more with a fresh list if it found nothing: a library may have been
// loaded since. A list in which nothing is found either is dropped: looking in vain costs no
// memory.
template <class Search>
bool find_module(Search search) {
    const Table* known = known_modules.load(std::memory_order_acquire);
    if (known && search(known->modules)) return true;
    Scan scan = {known, nullptr};
    dl_iterate_phdr(add_module, &scan);
    if (!scan.fresh || !search(scan.fresh->modules)) return false;
    Table* published = scan.fresh.release();
    // Nobody reads `older`, so it may come after the publication.
    published->older = known_modules.exchange(published, std::memory_order_acq_rel);
    return true;
}

std::string names_of(const std::vector<Module>& modules, std::uint64_t id) {
    std::vector<std::string> names;
    for (const Module& m : modules)
        if (m.id == id) names.push_back(m.name);
    return fmt::format("{}", fmt::join(names, " and "));
}

ModuleAddress look_up(const void* address) {
    auto at = reinterpret_cast<std::uintptr_t>(address);
    ModuleAddress result;
    std::string doubles;
    bool found = find_module([&](const std::vector<Module>& modules) {
        for (const Module& m : modules)
            if (m.holds(at)) {
                result = {m.id, at - m.base};
                doubles = m.has_double ? names_of(modules, m.id) : "";
                return !m.has_double;  // the double may be closed by now
            }
        return false;
    });
    if (found) return result;
    if (!doubles.empty())
        throw std::invalid_argument(fmt::format(
            "the function at {} cannot be named to another process: {} are loaded here and are "
            "copies of one library, and the other process could not tell which is meant; load one "
            "of them only",
            address, doubles));
    throw std::invalid_argument(fmt::format(
        "the function at {} lies in no loaded program or library, so no other process can find it; "
        "pass a function that is compiled into one",
        address));
}

// What a thread asked for last: most ask for one function again and again.
struct Located {
    const Table* table;
    const void* address;
    ModuleAddress at;
};
constinit thread_local Located located_last{nullptr, nullptr, {}};

}  // namespace

ModuleAddress locate(const void* address) {
    const Table* table = known_modules.load(std::memory_order_acquire);
    if (table && located_last.table == table && located_last.address == address)
        return located_last.at;
    ModuleAddress at = look_up(address);
    located_last = {table, address, at};
    return at;
}

const void* resolve(const ModuleAddress& where, Contents contents, std::size_t size) {
    std::uintptr_t address = 0;
    find_module([&](const std::vector<Module>& modules) {
        for (const Module& m : modules) {
            if (m.id != where.module) continue;
            std::uintptr_t at = m.base + where.offset;
            std::uintptr_t end = m.end_of(at, contents);
            if (end != 0 && size <= end - at && !m.has_double) address = at;
            return !m.has_double;
        }
        return false;
    });
    return reinterpret_cast<const void*>(address);
}

std::string why_unresolved(const ModuleAddress& where) {
    std::string reason;
    bool loaded = find_module([&](const std::vector<Module>& modules) {
        for (const Module& m : modules) {
            if (m.id != where.module) continue;
            reason = m.has_double
                         ? fmt::format(
                               "{} are loaded in this process and are copies of one "
                               "library: it cannot be told which is meant; load one of "
                               "them only",
                               names_of(modules, m.id))
                         : fmt::format(
                               "{} is loaded, but has nothing of the kind at offset {:#x}: "
                               "what names the place was damaged on its way",
                               m.name, where.offset);
            return true;
        }
        return false;
    });
    if (loaded) return reason;
    return fmt::format(
        "the library it belongs to (module {:016x}) is not loaded in this process: whoever named "
        "it has loaded it by dlopen(), or runs another build (was a file replaced since it "
        "started?); load it here too, before init() or in a pool's initializer, and run the same "
        "build everywhere",
        where.module);
}

std::string copies_of_this_library() {
    std::vector<std::string> names;
    auto look = [](dl_phdr_info* info, std::size_t, void* data) {
        if (has_this_library(*info))
            static_cast<std::vector<std::string>*>(data)->push_back(module_name(*info));
        return 0;
    };
    dl_iterate_phdr(look, &names);
    if (names.size() < 2) return {};
    return fmt::format(
        "There are {} copies of Sidestep in this process, in {}, and what was done with one, the "
        "others do not know: link it into one of them only, as a shared library if need be",
        names.size(), fmt::join(names, " and in "));
}

}  // namespace sidestep

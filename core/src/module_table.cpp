#include "module_table.hpp"

#include <elf.h>
#include <fmt/format.h>
#include <link.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

namespace sidestep {
namespace {

struct Segment {
    std::uintptr_t begin = 0, end = 0;
    bool executable = false;
};

struct Module {
    std::uint64_t id = 0;
    std::uintptr_t base = 0;
    std::vector<Segment> segments;

    const Segment* find(std::uintptr_t address) const {
        for (const Segment& s : segments)
            if (address >= s.begin && address < s.end) return &s;
        return nullptr;
    }
};

std::uint64_t build_id(const dl_phdr_info& info) {
    for (int i = 0; i < info.dlpi_phnum; ++i) {
        const ElfW(Phdr)& header = info.dlpi_phdr[i];
        if (header.p_type != PT_NOTE) continue;
        auto* at = reinterpret_cast<const char*>(info.dlpi_addr + header.p_vaddr);
        const char* end = at + header.p_memsz;
        while (at + sizeof(ElfW(Nhdr)) <= end) {
            ElfW(Nhdr) note;
            std::memcpy(&note, at, sizeof note);
            const char* name = at + sizeof note;
            const char* value = name + ((note.n_namesz + 3u) & ~3u);
            if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 &&
                std::memcmp(name, "GNU", 4) == 0 && note.n_descsz >= 8) {
                std::uint64_t id;
                std::memcpy(&id, value, sizeof id);
                return id;
            }
            at = value + ((note.n_descsz + 3u) & ~3u);
        }
    }
    return 0;
}

// FNV-1a over the code, eight bytes at a time.
std::uint64_t code_hash(const Module& module) {
    std::uint64_t hash = 0xcbf29ce484222325u;
    for (const Segment& s : module.segments) {
        if (!s.executable) continue;
        for (std::uintptr_t p = s.begin; p + 8 <= s.end; p += 8) {
            std::uint64_t word;
            std::memcpy(&word, reinterpret_cast<const void*>(p), sizeof word);
            hash = (hash ^ word) * 0x100000001b3u;
        }
    }
    return hash;
}

int add_module(dl_phdr_info* info, std::size_t, void* data) {
    Module module;
    module.base = info->dlpi_addr;
    for (int i = 0; i < info->dlpi_phnum; ++i) {
        const ElfW(Phdr)& header = info->dlpi_phdr[i];
        if (header.p_type != PT_LOAD) continue;
        std::uintptr_t begin = info->dlpi_addr + header.p_vaddr;
        module.segments.push_back({begin, begin + header.p_memsz, (header.p_flags & PF_X) != 0});
    }
    bool has_code = std::any_of(module.segments.begin(), module.segments.end(),
                                [](const Segment& s) { return s.executable; });
    // The vDSO belongs to the kernel: nothing of a program lies in it.
    if (!has_code || (info->dlpi_name && std::strstr(info->dlpi_name, "linux-vdso"))) return 0;
    module.id = build_id(*info);
    if (module.id == 0) module.id = code_hash(module) | 1;
    static_cast<std::vector<Module>*>(data)->push_back(std::move(module));
    return 0;
}

struct Table {
    std::vector<Module> modules;
    const Table* older = nullptr;  // keeps it reachable: no leak, to those who look for leaks
};

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
    auto fresh = std::make_unique<Table>();
    dl_iterate_phdr(add_module, &fresh->modules);
    if (!search(fresh->modules)) return false;
    Table* published = fresh.release();
    // Nobody reads `older`, so it may come after the publication.
    published->older = known_modules.exchange(published, std::memory_order_acq_rel);
    return true;
}

}  // namespace

ModuleAddress locate(const void* address) {
    auto at = reinterpret_cast<std::uintptr_t>(address);
    ModuleAddress result;
    bool found = find_module([&](const std::vector<Module>& modules) {
        for (const Module& m : modules)
            if (m.find(at)) {
                result = {m.id, at - m.base};
                return true;
            }
        return false;
    });
    if (!found)
        throw std::invalid_argument(fmt::format(
            "the function at {} lies in no loaded program or library, so no other process can "
            "find it; pass a function that is compiled into one",
            address));
    return result;
}

const void* resolve(const ModuleAddress& where, Contents contents, std::size_t size) {
    std::uintptr_t address = 0;
    find_module([&](const std::vector<Module>& modules) {
        for (const Module& m : modules) {
            if (m.id != where.module) continue;
            std::uintptr_t at = m.base + where.offset;
            const Segment* s = m.find(at);
            if (s && s->executable == (contents == Contents::code) && size <= s->end - at)
                address = at;
            return true;
        }
        return false;
    });
    return reinterpret_cast<const void*>(address);
}

}  // namespace sidestep

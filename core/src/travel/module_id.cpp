#include "travel/module_id.hpp"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <span>
#include <sstream>
#include <string_view>
#include <vector>

#include "sys/fd.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

// A note that is found in every module that this file was linked into: sizes of name and
// description, type, name, and a version. (As a variable it would get a margin around it from
// AddressSanitizer, which whoever walks over the notes takes for one.)
constexpr std::uint32_t kLibraryNote = 1;
asm(R"(
    .pushsection .note.sidestep, "a", %note
    .balign 4
    .long 9, 4, 1
    .asciz "Sidestep"
    .balign 4
    .long 1
    .popsection
)");

// FNV-1a, eight bytes at a time.
class Hash {
  public:
    void add(const void* data, std::size_t size) {
        auto* at = static_cast<const char*>(data);
        for (; size > 0; at += sizeof(std::uint64_t)) {
            std::uint64_t word = 0;
            std::size_t step = std::min(size, sizeof word);
            std::memcpy(&word, at, step);
            value_ = (value_ ^ word) * 0x100000001b3u;
            size -= step;
        }
    }
    std::uint64_t value() const { return value_ != 0 ? value_ : 1; }

  private:
    std::uint64_t value_ = 0xcbf29ce484222325u;
};

std::span<const ElfW(Phdr)> headers(const dl_phdr_info& info) {
    return {info.dlpi_phdr, info.dlpi_phnum};
}

const char* in_memory(const dl_phdr_info& info, const ElfW(Phdr) & header) {
    return reinterpret_cast<const char*>(info.dlpi_addr + header.p_vaddr);
}

bool is_loaded(const dl_phdr_info& info, const ElfW(Phdr) & part) {
    auto holds_it = [&](const ElfW(Phdr) & header) {
        return header.p_type == PT_LOAD && (header.p_flags & PF_R) != 0 &&
               part.p_vaddr >= header.p_vaddr && part.p_memsz <= header.p_memsz &&
               part.p_vaddr - header.p_vaddr <= header.p_memsz - part.p_memsz;
    };
    auto all = headers(info);
    return std::any_of(all.begin(), all.end(), holds_it);
}

// The description of the module's note of that name and type; empty if there is none.
std::string_view find_note(const dl_phdr_info& info, std::string_view name, std::uint32_t type) {
    for (const ElfW(Phdr) & header : headers(info)) {
        if (header.p_type != PT_NOTE || !is_loaded(info, header)) continue;
        const char* at = in_memory(info, header);
        const char* end = at + header.p_memsz;
        while (at + sizeof(ElfW(Nhdr)) <= end) {
            ElfW(Nhdr) note;
            std::memcpy(&note, at, sizeof note);
            const char* its_name = at + sizeof note;
            const char* value = its_name + ((note.n_namesz + 3u) & ~3u);
            at = value + ((note.n_descsz + 3u) & ~3u);
            if (note.n_type == type && note.n_namesz == name.size() + 1 && at <= end &&
                std::string_view(its_name, name.size()) == name)
                return {value, note.n_descsz};
        }
    }
    return {};
}

// --- a module without a build-id: its contents -------------------------------------------------

// The file that lies at the address, as long as its path still leads to it.
Fd open_file_at(std::uintptr_t address) {
    std::optional<std::string> maps = sys::read_file("/proc/self/maps");
    if (!maps) return {};
    std::istringstream lines(*maps);
    for (std::string line; std::getline(lines, line);) {
        unsigned long begin = 0, end = 0, inode = 0;
        int path = 0;
        int fields =
            std::sscanf(line.c_str(), "%lx-%lx %*s %*s %*s %lu %n", &begin, &end, &inode, &path);
        if (fields != 3 || address < begin || address >= end || path == 0) continue;
        Fd file(::open(line.c_str() + path, O_RDONLY | O_CLOEXEC));
        struct stat status = {};
        bool same = file && ::fstat(file.get(), &status) == 0 && status.st_ino == inode;
        return same ? std::move(file) : Fd();
    }
    return {};
}

// False: the file ends before its segment does, so it is another one by now.
bool add_segment_of_file(Hash& hash, const Fd& file, const ElfW(Phdr) & header) {
    std::vector<char> chunk(64 << 10);
    for (std::size_t done = 0; done < header.p_filesz;) {
        std::size_t wanted = std::min<std::size_t>(chunk.size(), header.p_filesz - done);
        ssize_t got =
            ::pread(file.get(), chunk.data(), wanted, static_cast<off_t>(header.p_offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        hash.add(chunk.data(), static_cast<std::size_t>(got));
        done += static_cast<std::size_t>(got);
    }
    return true;
}

bool add_file(Hash& hash, const dl_phdr_info& info) {
    Fd file;
    for (const ElfW(Phdr) & header : headers(info)) {
        if (header.p_type != PT_LOAD || header.p_filesz == 0) continue;
        if (!file) file = open_file_at(info.dlpi_addr + header.p_vaddr);
        if (!file || !add_segment_of_file(hash, file, header)) return false;
    }
    return true;
}

// What can be written differs from process to process: relocations, variables.
void add_memory(Hash& hash, const dl_phdr_info& info) {
    for (const ElfW(Phdr) & header : headers(info))
        if (header.p_type == PT_LOAD && (header.p_flags & (PF_R | PF_W)) == PF_R)
            hash.add(in_memory(info, header), header.p_filesz);
}

}  // namespace

std::uint64_t module_id(const dl_phdr_info& info) {
    Hash hash;
    // With the build-id too: there are projects that give one to all that they build.
    for (const ElfW(Phdr) & header : headers(info)) hash.add(&header, sizeof header);
    std::string_view build_id = find_note(info, "GNU", NT_GNU_BUILD_ID);
    Hash contents = hash;
    if (build_id.size() >= sizeof(std::uint64_t))
        contents.add(build_id.data(), build_id.size());
    else if (!add_file(contents, info))
        add_memory(contents = hash, info);
    return contents.value();
}

bool has_this_library(const dl_phdr_info& info) {
    return !find_note(info, "Sidestep", kLibraryNote).empty();
}

std::string module_name(const dl_phdr_info& info) {
    return info.dlpi_name && *info.dlpi_name ? info.dlpi_name : "the program";
}

}  // namespace sidestep

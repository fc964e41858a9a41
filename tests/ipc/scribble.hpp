// What a process can do to the objects that it shares: to write anything anywhere in their memory.
#pragma once

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <span>
#include <stdexcept>
#include <vector>

#include "processes.hpp"

#include "memory/mapped_segment.hpp"

namespace test {

using Random = std::minstd_rand;

// The memory of what a handle refers to, mapped once more, as another process would have it. The
// handle's bytes are pairs, number of a descriptor and offset, behind `skip` bytes.
class PartnersView {
  public:
    static constexpr std::size_t kMost = 64 << 10;  // of a large object: its head

    template <class Handle>
    explicit PartnersView(const Handle& handle, std::size_t skip = 0) {
        sidestep::detail::HeapBuffer buffer;
        FdCollector fds;
        sidestep::OutputArchive archive(buffer, &fds);
        archive(handle);
        std::vector<std::byte*> begins;
        std::vector<std::size_t> sizes;
        for (int fd : fds.fds) {
            struct stat status = {};
            ::fstat(fd, &status);
            auto size = static_cast<std::size_t>(status.st_size);
            void* mapped = size == 0 ? MAP_FAILED  // an eventfd
                                     : ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                              MAP_SHARED | MAP_NORESERVE, fd, 0);
            begins.push_back(mapped == MAP_FAILED ? nullptr : static_cast<std::byte*>(mapped));
            sizes.push_back(size);
            if (mapped != MAP_FAILED) mapped_.emplace_back(mapped, size);
        }
        for (auto rest = buffer.bytes().subspan(skip); rest.size() >= 16; rest = rest.subspan(16)) {
            std::uint64_t pair[2];
            std::memcpy(pair, rest.data(), sizeof pair);
            if (pair[0] >= begins.size() || !begins[pair[0]]) break;
            std::byte* at = begins[pair[0]] + pair[1];
            sidestep::ObjectHeader header;
            std::memcpy(&header, at, sizeof header);
            regions_.emplace_back(at, std::min<std::size_t>(header.size, kMost));
        }
        if (regions_.empty()) throw std::logic_error("a handle of nothing");
    }
    PartnersView(const PartnersView&) = delete;
    PartnersView& operator=(const PartnersView&) = delete;
    ~PartnersView() {
        for (auto [address, size] : mapped_) ::munmap(address, size);
    }
    const std::vector<std::span<std::byte>>& regions() const { return regions_; }

  private:
    std::vector<std::pair<void*, std::size_t>> mapped_;
    std::vector<std::span<std::byte>> regions_;
};

// One write that nobody meant.
inline void scribble(std::span<std::byte> memory, Random& random) {
    std::size_t begin = random() % memory.size();
    // Short ones are what breaks things by half; now and then all goes.
    std::size_t most = random() % 8 == 0 ? memory.size() : 32;
    std::size_t length = 1 + random() % std::min(most, memory.size() - begin);
    std::span<std::byte> range = memory.subspan(begin, length);
    // Words lie at multiples of 8.
    std::size_t word = begin / 8 * 8;
    constexpr std::uint64_t kWords[] = {1,          2,          255,        0x7fffffff,
                                        0x80000000, 0xffffffff, 1ull << 32, 1ull << 63};
    switch (random() % 5) {
        case 0:
            for (std::byte& byte : range) byte = static_cast<std::byte>(random());
            return;
        case 1:
            std::fill(range.begin(), range.end(), std::byte{0});
            return;
        case 2:
            std::fill(range.begin(), range.end(), std::byte{0xff});
            return;
        case 3:
            range[0] ^= std::byte(1 << random() % 8);
            return;
        default:
            if (word + 8 <= memory.size())
                std::memcpy(memory.data() + word, &kWords[random() % std::size(kWords)], 8);
    }
}
inline void scribble(const PartnersView& view, Random& random) {
    const auto& all = view.regions();
    for (unsigned times = 1 + static_cast<unsigned>(random() % 3); times > 0; --times)
        scribble(all[random() % all.size()], random);
}

// A result that is wrong, and that no error tells of. (No std::exception: those are errors.)
struct Wrong {
    const char* what;
};
inline void require(bool holds, const char* what) {
    if (!holds) throw Wrong{what};
}

// An operation may fail, with an error.
template <class F>
void attempt(F f) {
    try {
        f();
    } catch (const std::exception&) {  // says so: whoever called it knows
    }
}

}  // namespace test

// What a type needs to know of the archives that it travels in, if it is a handle: their names, how
// descriptors go along, and what it is before it is read. Internal.
//
// A header that includes this instead of <sidestep/archive.hpp> costs its users no cereal.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace sidestep::inline v0 {

class OutputArchive;
class InputArchive;

namespace detail {

// A number that nothing else in this process has, or had.
std::uint64_t new_identity() noexcept;

// How descriptors travel beside the bytes. A transport that cannot carry any passes none.
class FdSink {
  public:
    virtual ~FdSink() = default;
    // Returns the number that stands for it in the bytes. Equal descriptors may share one: many
    // small objects lie in one segment.
    virtual std::uint64_t put(int fd) = 0;
    // The same for one that belongs to `owner` and stands for one thing while that lives, such as a
    // segment of shared memory: who sends again and again to the same receiver sends it once.
    // `identity`: the owner's, from new_identity().
    virtual std::uint64_t put_lasting(int fd, std::uint64_t identity,
                                      const std::shared_ptr<const void>& owner) {
        (void)identity, (void)owner;
        return put(fd);
    }
};
class FdSource {
  public:
    virtual ~FdSource() = default;
    // An owned descriptor; another one each time that a number is asked for.
    virtual int get(std::uint64_t number) = 0;
    // What a lasting one stands for: what make() makes of the owned descriptor, or made before.
    using Make = std::shared_ptr<void> (*)(int fd);
    virtual std::shared_ptr<void> get_lasting(std::uint64_t number, Make make) {
        return make(get(number));
    }
};

// Makes a value that is about to be read: a handle's default constructor would create a new shared
// object, only for it to be replaced; handles have a constructor from Blank instead.
struct Blank {};
// A handle that is nothing but descriptors (SharedMemory has a name as well).
template <class T>
inline constexpr bool needs_fds = std::is_constructible_v<T, Blank>;
// True of what belongs to the process that made it, such as a Pool: specialized there. For the
// errors at compile time (checks.hpp).
template <class T>
inline constexpr bool stays_here = false;
template <class T>
T make_blank() {
    if constexpr (std::is_constructible_v<T, Blank>)
        return T(Blank{});
    else
        return T{};
}

}  // namespace detail
}  // namespace sidestep

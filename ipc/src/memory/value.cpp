#include <sidestep/value.hpp>

#include <fmt/format.h>

#include <cstring>
#include <new>
#include <system_error>

#include "memory/mapped_segment.hpp"

namespace sidestep::inline v0::detail {
namespace {

constexpr const char* kDataName = "shared value or array";
constexpr std::uint64_t kDataKind = object_kind("sidestep.Data.1");

struct alignas(kCell) Data {
    ObjectHeader header;
    std::uint64_t element_size = 0;
    std::uint64_t count = 0;
};
static_assert(sizeof(Data) == kCell);

}  // namespace

ObjectRef make_data(std::size_t element_size, std::size_t alignment, std::size_t count) {
    // The data begin at a multiple of kCell, in the page as in the segment.
    if (alignment > kCell || count > (std::size_t(1) << 46) / element_size) throw std::bad_alloc();
    try {
        ObjectRef ref = make_object<Data>(kDataKind, "sidestep-data", element_size * count);
        auto& data = ref.as<Data>(kDataName);
        data.element_size = element_size;
        data.count = count;
        return ref;
    } catch (const std::system_error& error) {
        if (error.code().value() == ENOMEM) throw std::bad_alloc();
        throw;
    }
}

std::byte* data_of(const ObjectRef& ref) {
    return ref ? reinterpret_cast<std::byte*>(&ref.as<Data>(kDataName) + 1) : nullptr;
}

void save_data(const ObjectRef& ref, OutputArchive& archive) { ref.save(archive, kDataName); }

std::size_t load_data(ObjectRef& ref, InputArchive& archive, std::size_t element_size,
                      std::size_t alignment, std::size_t least) {
    std::size_t room = ref.load(archive, kDataKind, kDataName, sizeof(Data)) - sizeof(Data);
    // Copies: what is checked is what is used.
    Data data;
    std::memcpy(&data, &ref.as<Data>(kDataName), sizeof data);
    if (data.element_size != element_size || alignment > kCell || data.count < least ||
        data.count > room / element_size)
        throw SerializationError(fmt::format(
            "cannot receive a {}: {} elements of {} bytes arrived, such of {} were expected (the "
            "types of the two sides do not agree, or a process that shares it wrote over it)",
            kDataName, data.count, data.element_size, element_size));
    return static_cast<std::size_t>(data.count);
}

void throw_out_of_range(std::size_t index, std::size_t size) {
    throw std::out_of_range(fmt::format("index {} of an array of {} elements", index, size));
}

}  // namespace sidestep::detail

#include <sidestep/detail/late_arguments.hpp>

#include <algorithm>
#include <cstring>

namespace sidestep::inline v0::detail {

void LateArguments::expect(const TaskRef& task, Write write) {
    if (!task) throw_empty_future();
    needs_.reserve(needs_.size() + 1);
    expected_.push_back({write, buffer_.size()});
    needs_.push_back(task);
}

std::size_t LateArguments::gather() {
    here_ = buffer_.size();
    std::size_t size = here_;
    for (std::size_t i = 0; i < needs_.size(); ++i) {
        Expected& each = expected_[i];
        if (!each.write) continue;
        foreign_ = {};
        each.own_begin = buffer_.size();
        each.write(*this, *needs_[i]);
        each.own_end = buffer_.size();
        each.foreign = foreign_;
        size += each.own_end - each.own_begin + each.foreign.bytes.size();
    }
    return size;
}

void LateArguments::copy_to(std::byte* place) const {
    const std::byte* own = buffer_.begin();
    auto copy = [&place](const std::byte* from, std::size_t size) {
        if (size != 0) std::memcpy(place, from, size);  // nothing may come with a null pointer
        place += size;
    };
    std::size_t at = 0;
    for (const Expected& each : expected_) {
        copy(own + at, each.at - at);
        at = each.at;
        copy(own + each.own_begin, each.own_end - each.own_begin);
        std::span<const std::byte> bytes = each.foreign.bytes;
        copy(bytes.data(), bytes.size());
        if (each.foreign.check) each.foreign.check({place - bytes.size(), bytes.size()});
    }
    copy(own + at, here_ - at);
}

}  // namespace sidestep::detail

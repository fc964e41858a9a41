// Messages that go out together: in one write, and over TLS in one record.
//
// Threads: a value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include <sidestep/archive.hpp>
#include <sidestep/connection.hpp>

#include "connection/frame.hpp"
#include "sys/error.hpp"

namespace sidestep::inline v0::detail {

class FrameBatch {
  public:
    // What recv<T>() reads, which has no descriptors. If that throws, nothing was added.
    template <class T>
    void add(const T& value) {
        const std::size_t begin = frames_.size();
        try {
            OutputArchive archive(frames_);
            archive(std::uint32_t(0), MessageType::kMagic, message_type<T>().tag, value);
        } catch (...) {
            frames_.truncate(begin);
            throw;
        }
        const std::size_t size = frames_.size() - begin - FrameHeader::kShort;
        SIDESTEP_ASSERT(size <= std::numeric_limits<std::int32_t>::max());
        store_big_endian(size, {frames_.begin() + begin, FrameHeader::kShort});
        ++count_;
    }
    std::size_t size_bytes() const { return frames_.size(); }
    bool empty() const { return count_ == 0; }
    void clear() {
        frames_.clear();
        count_ = 0;
    }
    void swap(FrameBatch& other) noexcept {
        std::swap(frames_, other.frames_);
        std::swap(count_, other.count_);
    }
    // As Connection::send() of all of them.
    void send_by(Connection& connection) const {
        connection.expect_writable();
        connection.write_all(frames_.bytes(), {}, {});
    }

  private:
    HeapBuffer frames_;
    std::size_t count_ = 0;
};

}  // namespace sidestep::detail

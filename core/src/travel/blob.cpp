#include "travel/blob.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <system_error>

#include "sys/error.hpp"
#include "sys/sys.hpp"

namespace sidestep::inline v0 {
namespace {

constexpr std::size_t kFdsInMessage = 64;

struct BlobHeader {
    static constexpr std::uint64_t kMagic = 0x626f6c6273736473;
    std::uint64_t magic = kMagic;
    std::uint64_t size = 0;
    std::uint32_t in_file = 0;
    std::uint32_t fds = 0;
};

[[noreturn]] void throw_bad_blob() {
    throw std::runtime_error(
        "what came over the control socket is not of this version of Sidestep");
}

}  // namespace

void BlobBuffer::grow(std::size_t more) {
    std::size_t used = size(), wanted = std::max(used + more, 2 * capacity());
    if (wanted <= kInline) {
        heap_.resize(std::max<std::size_t>(wanted, 1024));
        set_window(heap_.data(), used, heap_.size());
        return;
    }
    bool first = !file_;
    if (first) file_ = sys::growing_memfd("sidestep-message");
    wanted = std::max(wanted, 4 * kInline);
    sys::resize_file(file_.get(), wanted);
    Mapping larger = sys::map_shared(file_.get(), wanted, sys::Access::read_write);
    if (first && used != 0) std::memcpy(larger.data(), begin(), used);
    mapping_ = std::move(larger);
    heap_ = {};
    set_window(mapping_.data(), used, wanted);
}

Fd BlobBuffer::take_file() {
    std::size_t used = size();
    mapping_.reset();
    set_window(nullptr, 0, 0);
    sys::resize_file(file_.get(), used);
    sys::seal(file_.get());
    return std::move(file_);
}

std::uint64_t BlobFds::put(int fd) {
    auto found = std::find(fds.begin(), fds.end(), fd);
    auto number = static_cast<std::size_t>(found - fds.begin());
    if (found == fds.end()) {
        fds.push_back(fd);
        uses.push_back(0);
    }
    ++uses[number];
    return number;
}

void send_blob(int socket, BlobBuffer& buffer, const BlobFds& fds) {
    BlobHeader header;
    header.size = buffer.size();
    header.in_file = buffer.in_file() ? 1 : 0;
    header.fds = static_cast<std::uint32_t>(fds.fds.size());
    std::vector<std::byte> message(sizeof header + (buffer.in_file() ? 0 : buffer.size()));
    std::memcpy(message.data(), &header, sizeof header);
    Fd file;
    if (buffer.in_file())
        file = buffer.take_file();
    else if (buffer.size() != 0)
        std::memcpy(message.data() + sizeof header, buffer.begin(), buffer.size());
    int raw = file.get();
    try {
        sys::send_message(socket, message, std::span<const int>(&raw, header.in_file));
        for (std::size_t i = 0; i < fds.fds.size(); i += kFdsInMessage) {
            std::size_t count = std::min(kFdsInMessage, fds.fds.size() - i);
            sys::send_message(socket, std::as_bytes(std::span(fds.uses).subspan(i, count)),
                              std::span(fds.fds).subspan(i, count));
        }
    } catch (const std::system_error& error) {
        if (error.code().value() != EPIPE && error.code().value() != ECONNRESET) throw;
    }
}

std::optional<Blob> Blob::receive(int socket) {
    Blob blob;
    blob.heap_.resize(sizeof(BlobHeader) + BlobBuffer::kInline);
    sys::Message message = sys::receive_message(socket, blob.heap_);
    if (message.closed) return {};
    BlobHeader header;
    if (message.size < sizeof header) throw_bad_blob();
    std::memcpy(&header, blob.heap_.data(), sizeof header);
    std::size_t in_line = message.size - sizeof header;
    if (header.magic != BlobHeader::kMagic || header.in_file > 1 ||
        message.fds.size() != header.in_file || in_line != (header.in_file ? 0 : header.size))
        throw_bad_blob();
    blob.offset_ = sizeof header;
    blob.size_ = static_cast<std::size_t>(header.size);
    if (header.in_file) {
        if (sys::sealed_size(message.fds[0].get()) != header.size) throw_bad_blob();
        blob.mapping_ = sys::map_shared(message.fds[0].get(), blob.size_, sys::Access::read_only);
        blob.heap_ = {};
    }
    while (blob.fds_.size() < header.fds) {
        std::uint32_t uses[kFdsInMessage] = {};
        sys::Message more = sys::receive_message(socket, std::as_writable_bytes(std::span(uses)));
        if (more.closed) return {};
        if (more.fds.empty() || more.size != more.fds.size() * sizeof uses[0]) throw_bad_blob();
        for (std::size_t i = 0; i < more.fds.size(); ++i) {
            blob.fds_.push_back(std::move(more.fds[i]));
            blob.uses_.push_back(uses[i]);
        }
    }
    return blob;
}

std::span<const std::byte> Blob::bytes() const {
    return {mapping_ ? mapping_.data() : heap_.data() + offset_, size_};
}

void Blob::shrink() {
    if (mapping_) return;
    heap_.resize(offset_ + size_);
    heap_.shrink_to_fit();
}

int Blob::get(std::uint64_t number) {
    if (number >= fds_.size() || !fds_[number])
        throw SerializationError(fmt::format(
            "cannot deserialize: descriptor {} did not come along ({} did)", number, fds_.size()));
    if (--uses_[number] > 0) return fds_[number].duplicate().release();
    return fds_[number].release();
}

}  // namespace sidestep

#include <sidestep/chunk.hpp>

#include <algorithm>

namespace sidestep::detail {

namespace {
std::string& description() {
    static std::string* text = new std::string;
    return *text;
}
}  // namespace

const std::string& process_description() { return description(); }
void set_process_description(std::string text) { description() = std::move(text); }

void ChunkErrors::add_current(std::uint64_t index) {
    HeapBuffer error;
    OutputArchive inner(error);
    save_current_exception(inner, process_description());
    OutputArchive archive(bytes_);
    archive(index, static_cast<std::uint64_t>(error.size()));
    archive.write(error.begin(), error.size());
    ++count_;
}

void ChunkErrors::finish(OutputArchive& result) const {
    ChunkTrailer trailer{result.buffer().size(), count_};
    if (count_ > 0) result.write(bytes_.begin(), bytes_.size());
    result.write(&trailer, sizeof trailer);
}

void ChunkReader::open(std::span<const std::byte> bytes, std::uint64_t items) {
    ChunkTrailer trailer;
    if (bytes.size() < sizeof trailer) throw_short_read(sizeof trailer, bytes.size());
    auto body = bytes.first(bytes.size() - sizeof trailer);
    std::memcpy(&trailer, bytes.data() + body.size(), sizeof trailer);
    if (trailer.errors_begin > body.size() || trailer.errors > items)
        throw_bad_length(trailer.errors_begin, body.size());
    values_.reset(body.first(trailer.errors_begin));
    errors_.reset(body.subspan(trailer.errors_begin));
    errors_left_ = trailer.errors;
    if (errors_left_ > 0) read_error_head();
}

void ChunkReader::read_error_head() { errors_(error_index_, error_size_); }

std::exception_ptr ChunkReader::next_error(std::uint64_t index) {
    if (errors_left_ == 0 || index != error_index_) return nullptr;
    InputArchive archive(errors_.view(static_cast<std::size_t>(error_size_)));
    std::exception_ptr error = load_exception(archive);
    if (--errors_left_ > 0) read_error_head();
    return error;
}

std::size_t ChunkSizer::next() const {
    if (fixed_ > 0) return fixed_;
    if (!sized_) return current_;
    std::uint64_t share = std::max<std::uint64_t>(left_ / (2 * workers_), 1);
    return static_cast<std::size_t>(std::min<std::uint64_t>(current_, share));
}

void ChunkSizer::submitted(std::size_t items) { left_ -= std::min<std::uint64_t>(left_, items); }

void ChunkSizer::completed(std::size_t items, std::uint64_t duration_ns) {
    if (items == 0) return;
    std::uint64_t per_item = std::max<std::uint64_t>(duration_ns / items, 1);
    std::uint64_t wanted = std::max<std::uint64_t>(kTargetNs / per_item, 1);
    current_ = static_cast<std::size_t>(
        std::min<std::uint64_t>(wanted, 8 * std::max(items, current_ / 8)));
    current_ = std::max<std::size_t>(current_, 1);
}

}  // namespace sidestep::detail

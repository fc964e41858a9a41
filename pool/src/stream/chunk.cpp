#include <sidestep/detail/chunk.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include <sidestep/this_task.hpp>

namespace sidestep::inline v0::detail {

namespace {
std::string& description() {
    static std::string* text = new std::string;
    return *text;
}
// What this thread runs, and where.
std::string description_of(const std::string& what) {
    const unsigned attempt = task_context()->attempt;
    return fmt::format("{}  in {}{}\n", description(), what,
                       attempt > 1 ? fmt::format(", attempt {}", attempt) : "");
}
std::string item_description() { return fmt::format("item {} of the map", task_context()->item); }
}  // namespace

const std::string& process_description() { return description(); }
void set_process_description(std::string text) { description() = std::move(text); }
std::string task_description() noexcept {
    try {
        const TaskContext& context = *task_context();
        return description_of(context.tells_item
                                  ? fmt::format("{}, task {}", item_description(), context.number)
                                  : fmt::format("task {}", context.number));
    } catch (const std::bad_alloc&) {
        return {};
    }
}

void save_item_bits(OutputArchive& result, std::uint64_t count) {
    static constexpr std::byte kNone[64] = {};
    for (std::uint64_t bytes = (count + 7) / 8; bytes > 0;) {
        std::uint64_t n = std::min<std::uint64_t>(bytes, sizeof kNone);
        result.write(kNone, n);
        bytes -= n;
    }
}

void save_item_error(OutputArchive& result, std::uint64_t index) {
    const OutputBuffer& buffer = result.buffer();  // memory beside it there may be none
    std::uint64_t size = 0;
    result(size);
    const std::size_t begin = buffer.size();
    std::string where;
    try {
        where = description_of(item_description());
    } catch (const std::bad_alloc&) {  // it goes without
    }
    save_current_exception(result, where);
    size = buffer.size() - begin;
    std::memcpy(buffer.begin() + begin - sizeof size, &size, sizeof size);
    buffer.begin()[index / 8] |= std::byte{1} << (index % 8);
}

void rethrow_item_unread() { rethrow_unread(item_description().c_str()); }

void ChunkReader::open(std::span<const std::byte> bytes, std::uint64_t items) {
    std::uint64_t bits = (items + 7) / 8;
    if (bytes.size() < bits) throw_short_read(bits, bytes.size());
    bits_ = bytes.first(bits);
    values_.reset(bytes.subspan(bits));
    has_errors_ =
        std::any_of(bits_.begin(), bits_.end(), [](std::byte b) { return b != std::byte(0); });
}

std::exception_ptr ChunkReader::next_error(std::uint64_t index) {
    if (!has_errors_ || (bits_[index / 8] & std::byte{1} << (index % 8)) == std::byte(0))
        return nullptr;
    std::uint64_t size = 0;
    values_(size);
    if (size > values_.remaining()) throw_bad_length(size, values_.remaining());
    InputArchive archive(values_.view(static_cast<std::size_t>(size)));
    return load_exception(archive);
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

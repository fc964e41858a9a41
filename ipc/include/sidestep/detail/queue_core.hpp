// What is below Queue<T>: queues of bytes. Not for direct use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sidestep/archive.hpp>
#include <sidestep/detail/object_ref.hpp>

namespace sidestep::inline v0 {

// This process has closed its handle of the queue.
class QueueClosed : public std::logic_error {
  public:
    using std::logic_error::logic_error;
};
// What get() throws at the end: the queue was shut down, or its last producer has left, and nothing
// is left in it.
class QueueShutDown : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};
// What put() throws then: this item went nowhere. (Not a QueueShutDown: who takes that for the end
// of what it reads must not lose what it writes.)
class PutAfterShutDown : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct QueueOptions {
    std::int64_t max_items = 0;  // 0 or less: 2^31 - 1
    // Room for the items that wait, in bytes of address space: memory is used as items come. An
    // item takes half of it at most. Halved until the address space has it, and, where that is
    // limited (ulimit -v), as much again for all else.
    std::size_t max_bytes = std::size_t(4) << 30;
    // JoinableQueue only: an item counts as taken once task_done() was called for it; if the
    // process that got it dies before, another gets it.
    bool lease = false;
};

namespace detail {

// Types that are written as their bytes, as an archive would, but without the cost of one: cereal's
// archives have tables for pointers, which take longer than a small item.
template <class T>
inline constexpr bool is_plain = BitwiseElement<T> ||
                                 (std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
template <class A, class B>
inline constexpr bool is_plain<std::pair<A, B>> = is_plain<A>&& is_plain<B>;

template <class T>
void write_plain(OutputBuffer& out, const T& value) {
    out.write(&value, sizeof value);
}
template <class A, class B>
void write_plain(OutputBuffer& out, const std::pair<A, B>& value) {
    write_plain(out, value.first);
    write_plain(out, value.second);
}
template <class T>
void read_plain(std::span<const std::byte>& in, T& value) {
    if (in.size() < sizeof value) throw_short_read(sizeof value, in.size());
    std::memcpy(&value, in.data(), sizeof value);
    in = in.subspan(sizeof value);
}
template <class A, class B>
void read_plain(std::span<const std::byte>& in, std::pair<A, B>& value) {
    read_plain(in, value.first);
    read_plain(in, value.second);
}

// Records on their way: in place up to some size, then on the heap.
class RecordBuffer final : public OutputBuffer {
  public:
    RecordBuffer() { set_window(in_place_, 0, sizeof in_place_); }
    RecordBuffer(const RecordBuffer&) = delete;
    RecordBuffer& operator=(const RecordBuffer&) = delete;

    // A record: its length, its bytes, up to a multiple of 8.
    template <class T>
    void add(const T& item) {
        std::size_t begin = size();
        std::uint64_t length = 0;
        write(&length, sizeof length);
        if constexpr (is_plain<T>) {
            write_plain(*this, item);
        } else {
            OutputArchive archive(*this);
            archive(item);
        }
        length = size() - begin - sizeof length;
        std::memcpy(this->begin() + begin, &length, sizeof length);
        constexpr std::uint64_t kZero = 0;
        if (length % 8 != 0) write(&kZero, 8 - length % 8);
    }
    std::span<const std::byte> bytes() const { return {begin(), size()}; }

  private:
    void grow(std::size_t more) override;
    alignas(8) std::byte in_place_[1024];
    std::vector<std::byte> heap_;
};

// Reads records one after the other. What lies in a queue may be written over while it is copied:
// each length is checked.
inline constexpr std::uint64_t kRecordLengthMask = (std::uint64_t(1) << 35) - 1;
class RecordReader {
  public:
    explicit RecordReader(std::span<const std::byte> bytes) : rest_(bytes) {}
    bool done() const { return rest_.empty(); }
    template <class T>
    T next() {
        std::uint64_t length = 0;
        if (rest_.size() < sizeof length) throw_damaged("Queue");
        std::memcpy(&length, rest_.data(), sizeof length);
        length &= kRecordLengthMask;
        if ((length + 7) / 8 * 8 > rest_.size() - sizeof length) throw_damaged("Queue");
        std::span<const std::byte> item = rest_.subspan(8, static_cast<std::size_t>(length));
        rest_ = rest_.subspan(8 + static_cast<std::size_t>((length + 7) / 8 * 8));
        T value = make_blank<T>();
        if constexpr (is_plain<T>) {
            read_plain(item, value);
            if (!item.empty()) throw_left_over(item.size());
        } else {
            InputArchive archive(item);
            archive(value);
            archive.expect_end();
        }
        return value;
    }

  private:
    std::span<const std::byte> rest_;
};

class ProducerHold;

class QueueCore {
  public:
    enum class Kind : std::uint32_t { plain, joinable };
    QueueCore(Kind kind, const QueueOptions& options);
    explicit QueueCore(Blank) noexcept {}

    // Puts whole records; returns behind the last that went in before the deadline.
    std::size_t put(std::span<const std::byte> records, const Deadline& deadline) const;
    // Gets up to `limit` records, at least one unless the deadline passes. Returns how many.
    std::uint32_t get(std::uint32_t limit, RecordBuffer& out, const Deadline& deadline) const;

    std::size_t size() const;
    bool empty(bool closed_too) const;  // closed_too: answer for a handle that was closed unused
    std::size_t max_items() const;
    bool closed() const;
    void close() const;
    void shut_down(bool drop) const;
    int fd() const;
    // From now on the queue ends with the last of such.
    std::shared_ptr<ProducerHold> produce() const;
    static void check_producer(const std::shared_ptr<ProducerHold>& hold);
    void save_producer(OutputArchive& archive, const std::shared_ptr<ProducerHold>& hold) const;
    std::shared_ptr<ProducerHold> load_producer(InputArchive& archive, Kind kind);

    void task_done() const;
    bool join(const Deadline& deadline) const;
    std::size_t unfinished() const;

    bool operator==(const QueueCore& other) const;
    void save(OutputArchive& archive) const;
    void load(InputArchive& archive, Kind kind);

  private:
    friend class ProducerHold;
    struct State;
    struct Local;
    Local& local() const;
    static bool has_producers(const Local& own) noexcept;
    static void end_without_producers(Local& own);
    static void check_open(const Local& own);
    static std::size_t largest_item(const Local& own);
    [[noreturn]] static void throw_too_large(const Local& own, std::uint64_t length);
    static const std::byte* try_put(Local& own, const std::byte* begin, const std::byte* end,
                                    const Deadline& deadline);
    static bool try_get(Local& own, std::uint32_t limit, RecordBuffer& out, std::uint32_t& taken,
                        const Deadline& deadline);
    static void reclaim(Local& own);
    static void signal(Local& own);
    static void settle(Local& own);
    static bool time_to_look(Local& own);
    static bool take_over(Local& own, RecordBuffer& out);
    static bool lend(Local& own, RecordBuffer& out);
    static std::uint32_t take_on_loan(Local& own, std::uint32_t limit, RecordBuffer& out,
                                      bool look);
    std::shared_ptr<Local> local_;
};

}  // namespace detail
}  // namespace sidestep

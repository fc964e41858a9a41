// Queue<T>, SimpleQueue<T>, JoinableQueue<T>: items from any number of processes to any number.
//
// put() serializes the item, and throws if that fails: what is in the queue can be read. Items come
// out in the order in which put() returned. Nothing runs in the background: when put() has
// returned, the item is there, and the process may end at once.
//
//                   | T                           | with a timeout        | at once
//     put           | put(item)                   | put_for, put_until    | try_put: false if full
//     get           | get()                       | get_for, get_until    | try_get: empty optional
//     in batches    | put_many(range), get_many(n)| get_many_for          | try_get_many
//
// T travels if it can be serialized (archive.hpp). Handles (locks, arrays, queues) cannot be items,
// since descriptors do not fit in memory: send them over a Pipe, or as arguments. A Queue of them
// does not compile; put() of an item that contains one throws SerializationError. SharedMemory and
// ShareableList can be: they travel by name, so somebody must keep them until they are opened.
//
// Ownership:  a handle is a small value, its copies are one queue. The items lie in shared memory
//             without a name, for as long as any handle does.
// Threads:    thread-safe and process-shared.
// Fork:       a forked child has the handles too.
// Peer death: a process that is killed in put() has put its item whole or not at all; one that is
//             killed in get() has taken whole items or none. Nobody else is held up: the dead lose
//             the queue's locks within some 5 ms. A stopped process may hold up one side. A
//             producer that is killed has left.
// Trust:      between processes that share it as between threads: each may take and put items of
//             any value. They are read as a T or an error, and carry no function pointers.
// Errors:     QueueClosed after close() here; after shut_down() anywhere, or when the last
//             producer() has left: QueueShutDown from get(), PutAfterShutDown from put().
//             DamagedError if a process that shares the queue wrote over its memory: the queue is
//             lost, its users are not. (Told are its records' places and lengths; an item's bytes
//             are not checked.)
//             SerializationError, std::length_error for an item larger than half of max_bytes,
//             std::bad_alloc if the system has no memory for it, std::logic_error if moved from.
//             If reading one of a batch throws, those behind it in the batch are lost.
// Limits:     2^31 - 1 items; 32 GiB. By default (QueueOptions) put() waits when there are as many
//             items, or 4 GiB of them.
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <sidestep/detail/queue_core.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0 {

namespace detail {

// put() and its kin, of Self::put_records().
template <class Self, class T>
class PutsItems {
  public:
    // Waits for room.
    void put(const T& item) { (void)put_one(item, {}); }
    // False: it was full all the time.
    [[nodiscard]] bool put_for(const T& item, Timeout timeout) {
        return put_one(item, deadline_after(timeout));
    }
    template <class Clock, class Duration>
    [[nodiscard]] bool put_until(const T& item,
                                 const std::chrono::time_point<Clock, Duration>& moment) {
        return put_one(item, deadline_at(moment));
    }
    [[nodiscard]] bool try_put(const T& item) { return put_one(item, kNow); }
    // Puts all; others' items may come between.
    template <class Range>
    void put_many(const Range& items) {
        RecordBuffer records;
        for (const auto& item : items) {
            records.add<T>(item);
            if (records.size() < kBatch) continue;
            (void)self().put_records(records.bytes(), {});
            records.clear();
        }
        if (records.size() > 0) (void)self().put_records(records.bytes(), {});
    }

  protected:
    static inline const Deadline kNow = std::chrono::steady_clock::time_point::min();

  private:
    static constexpr std::size_t kBatch = 64 << 10;  // bytes
    Self& self() { return static_cast<Self&>(*this); }
    bool put_one(const T& item, const Deadline& deadline) {
        RecordBuffer record;
        record.add(item);
        return self().put_records(record.bytes(), deadline) > 0;
    }
};

// Who puts, and keeps the queue from its end meanwhile: see TypedQueue::producer(). A small value,
// whose copies are one producer, here and, where they travelled, in other processes. The queue's
// other end is not in it: a producer cannot get().
template <class T, QueueCore::Kind kind>
class QueueProducer : public PutsItems<QueueProducer<T, kind>, T> {
  public:
    using value_type = T;
    explicit QueueProducer(Blank blank) noexcept : core_(blank) {}

    // This copy puts no more (QueueClosed), and no longer counts. So does its destructor.
    void close() { hold_.reset(); }
    bool closed() const { return hold_ == nullptr; }

    void save(OutputArchive& archive) const { core_.save_producer(archive, hold_); }
    void load(InputArchive& archive) { hold_ = core_.load_producer(archive, kind); }

  private:
    template <class, QueueCore::Kind>
    friend class TypedQueue;
    friend PutsItems<QueueProducer, T>;
    explicit QueueProducer(const QueueCore& core) : core_(core), hold_(core.produce()) {}
    std::size_t put_records(std::span<const std::byte> records, const Deadline& deadline) {
        QueueCore::check_producer(hold_);
        return core_.put(records, deadline);
    }
    QueueCore core_;
    std::shared_ptr<ProducerHold> hold_;
};

template <class T, QueueCore::Kind kind>
class TypedQueue : public PutsItems<TypedQueue<T, kind>, T> {
    static_assert(Travels<T>,
                  "an item of this type cannot be serialized: give it a cereal `serialize` member "
                  "(or include the cereal header of a standard type); pointers cannot travel");
    static_assert(!needs_fds<T>,
                  "a handle cannot be an item of a queue: it travels as a descriptor, and a queue "
                  "has room for bytes only. Send it over a Pipe(), or pass it as an argument");
    static_assert(!names_code<T>,
                  "an item of a queue cannot carry function pointers: whoever put it could name "
                  "any function. Put data, or bind() a captureless lambda or a functor instead");

  public:
    using value_type = T;
    using Producer = QueueProducer<T, kind>;

    explicit TypedQueue(Blank blank) noexcept : core_(blank) {}

    // Waits for an item.
    T get() {
        RecordBuffer records;
        (void)core_.get(1, records, {});
        return RecordReader(records.bytes()).next<T>();
    }
    [[nodiscard]] std::optional<T> get_for(Timeout timeout) {
        return get_one(deadline_after(timeout));
    }
    template <class Clock, class Duration>
    [[nodiscard]] std::optional<T> get_until(
        const std::chrono::time_point<Clock, Duration>& moment) {
        return get_one(deadline_at(moment));
    }
    [[nodiscard]] std::optional<T> try_get() { return get_one(kNow); }
    // Waits for an item, and takes as many as are there then, `limit` at most.
    std::vector<T> get_many(std::size_t limit) { return get_some(limit, {}); }
    [[nodiscard]] std::vector<T> get_many_for(std::size_t limit, Timeout timeout) {
        return get_some(limit, deadline_after(timeout));
    }
    [[nodiscard]] std::vector<T> try_get_many(std::size_t limit) { return get_some(limit, kNow); }

    // Exact at some moment during the call.
    std::size_t size() const { return core_.size(); }
    // Does not throw for a handle that was closed before it was used, as Python's does not.
    bool empty() const { return core_.empty(true); }
    bool full() const { return size() >= max_items(); }
    std::size_t max_items() const { return core_.max_items(); }

    // Ends the use of this handle and of its copies in this process: all they do throws
    // QueueClosed. Other processes go on.
    void close() { core_.close(); }
    bool closed() const { return core_.closed(); }
    // Who puts, where several do: the queue ends (as with shut_down()) when all its producers have
    // left, whichever is the last: closed, destroyed, or killed with their process. It may be
    // called again and again, in any process, until then; a producer may be an argument or in a
    // message, and counts on its way too. The queue's own put() goes on until the end, and does not
    // count. Throws PutAfterShutDown after the end; std::system_error without /proc. A pool's task
    // takes one, too: if the task is taken back from a worker, for another one or since it was
    // cancelled, that worker lets go of it within a second of the end of the task that it runs.
    //
    //     sidestep::Queue<Line> lines(64);
    //     for (auto& path : paths) readers.emplace_back(read_lines, path, lines.producer());
    //     for (auto& reader : readers) reader.start();  // that lets go of its arguments
    //     for (;;) use(lines.get());  // QueueShutDown, when the last of them is through
    //
    // A forked child has none of its parent's: it gets its own as an argument.
    Producer producer() const { return Producer(core_); }
    // Ends the queue for all: put() throws PutAfterShutDown; get() throws QueueShutDown once what
    // is in the queue has been taken, or at once with `drop`.
    void shut_down(bool drop = false) { core_.shut_down(drop); }
    // A descriptor that poll(2) finds readable when there is an item, or the queue was shut down.
    // Do not read it. Another consumer may be faster: use try_get(). From the first call on, put()
    // and get() cost a system call more at times. Throws std::logic_error for a JoinableQueue with
    // .lease: no descriptor tells that an item came back from a process that died. Nor that the
    // last producer was killed: get_for() finds out.
    int fd() const { return core_.fd(); }

    friend bool operator==(const TypedQueue& a, const TypedQueue& b) { return a.core_ == b.core_; }
    void save(OutputArchive& archive) const { core_.save(archive); }
    void load(InputArchive& archive) { core_.load(archive, kind); }

  protected:
    explicit TypedQueue(const QueueOptions& options) : core_(kind, options) {}
    QueueCore core_;

  private:
    friend PutsItems<TypedQueue, T>;
    using PutsItems<TypedQueue, T>::kNow;
    std::size_t put_records(std::span<const std::byte> records, const Deadline& deadline) {
        return core_.put(records, deadline);
    }
    std::optional<T> get_one(const Deadline& deadline) {
        RecordBuffer records;
        if (core_.get(1, records, deadline) == 0) return {};
        return RecordReader(records.bytes()).next<T>();
    }
    std::vector<T> get_some(std::size_t limit, const Deadline& deadline) {
        RecordBuffer records;
        std::vector<T> items;
        if (limit == 0) return items;
        constexpr std::size_t kMost = 0x7fffffff;
        auto most = static_cast<std::uint32_t>(std::min(limit, kMost));
        items.reserve(core_.get(most, records, deadline));
        for (RecordReader reader(records.bytes()); !reader.done();)
            items.push_back(reader.next<T>());
        return items;
    }
};

}  // namespace detail

template <class T>
class Queue : public detail::TypedQueue<T, detail::QueueCore::Kind::plain> {
    using Base = detail::TypedQueue<T, detail::QueueCore::Kind::plain>;

  public:
    explicit Queue(QueueOptions options = {}) : Base(options) {}
    explicit Queue(std::int64_t max_items) : Base({.max_items = max_items}) {}
    explicit Queue(detail::Blank blank) noexcept : Base(blank) {}
};

// A queue without a bound: put() does not wait for consumers (until max_bytes are full).
template <class T>
class SimpleQueue : public detail::TypedQueue<T, detail::QueueCore::Kind::plain> {
    using Base = detail::TypedQueue<T, detail::QueueCore::Kind::plain>;

  public:
    SimpleQueue() : Base(QueueOptions{}) {}
    explicit SimpleQueue(detail::Blank blank) noexcept : Base(blank) {}
    bool empty() const { return this->core_.empty(false); }
};

// A queue that knows when all its items are done.
//
// With .lease = true, an item that was got stays on loan until its process calls task_done(), which
// ends its oldest loan. If the process dies before, another get() returns the item: each is done at
// least once. Up to 256 items are on loan at a time, and none may be larger than 16 MiB, whatever
// max_bytes is. Such a queue cannot be polled: fd(), and so wait(), throws std::logic_error.
template <class T>
class JoinableQueue : public detail::TypedQueue<T, detail::QueueCore::Kind::joinable> {
    using Base = detail::TypedQueue<T, detail::QueueCore::Kind::joinable>;

  public:
    explicit JoinableQueue(QueueOptions options = {}) : Base(options) {}
    explicit JoinableQueue(std::int64_t max_items) : Base({.max_items = max_items}) {}
    explicit JoinableQueue(detail::Blank blank) noexcept : Base(blank) {}

    // An item that was got is done. Throws std::logic_error if all were done before.
    void task_done() { this->core_.task_done(); }
    // Waits until all items that were put are done.
    void join() { (void)this->core_.join({}); }
    [[nodiscard]] bool join_for(Timeout timeout) {
        return this->core_.join(detail::deadline_after(timeout));
    }
    // How many were put and are not done.
    std::size_t unfinished() const { return this->core_.unfinished(); }
};

}  // namespace sidestep

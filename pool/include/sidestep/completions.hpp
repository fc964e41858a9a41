// Completions<T>: futures in an event loop, with one descriptor for all of them.
//
//     Completions<int> done;
//     done.add(pool.submit(f, x), 17);
//     // poll(2), epoll(7), Asio, Qt...: when done.fd() is readable
//     while (auto item = done.try_next()) use(item->future.get(), item->tag);
//
// The futures may be of different pools, thread pools and promises. They come in the order in which
// they are done. To look at their results is another matter: get() of one that failed throws.
//
// Ownership: keeps each future until it is handed out. Tasks go on when it goes.
// Threads:   thread-safe. An item goes to one of those that ask.
// Fork:      nothing crosses: a forked child must not use it.
// Errors:    std::logic_error for an empty future, std::system_error without descriptors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include <sidestep/detail/completion_queue.hpp>
#include <sidestep/future.hpp>

namespace sidestep::inline v0 {

namespace detail {

// What does not depend on T.
class CompletionSet {
  public:
    CompletionSet();
    ~CompletionSet();
    CompletionSet(const CompletionSet&) = delete;
    CompletionSet& operator=(const CompletionSet&) = delete;

    struct Done {
        TaskRef task;
        std::uint64_t tag;
    };
    void add(const TaskRef& task, std::uint64_t tag);
    std::optional<Done> try_next();
    std::optional<Done> next(const Deadline& deadline);
    std::size_t size() const;
    int fd() const { return queue_->fd(); }

  private:
    const std::shared_ptr<CompletionQueue> queue_;
    mutable std::mutex mutex_;
    // Guarded by mutex_.
    std::map<std::size_t, Done> added_;  // and not handed out, by their number
    std::size_t next_number_ = 0;
};

}  // namespace detail

template <class T>
class Completions {
  public:
    struct Item {
        Future<T> future;  // which is done
        std::uint64_t tag;
    };

    // The tag says what the future is of: an index, an address. A future that is added twice comes
    // twice.
    void add(const Future<T>& future, std::uint64_t tag = 0) { set_.add(future.state(), tag); }

    // The next one that is done; nothing: none is, now.
    std::optional<Item> try_next() { return item(set_.try_next()); }
    // The same, and waits for it; nothing: the time is over, or there is none to wait for. (If
    // others ask meanwhile and get the last one, it waits for what is added next.)
    std::optional<Item> next(Timeout timeout = Timeout::forever()) {
        return item(set_.next(detail::deadline_after(timeout)));
    }
    // How many were added and not handed out, done or not.
    std::size_t size() const { return set_.size(); }

    // Readable while try_next() has something. It is this object's: only wait for it.
    int fd() const { return set_.fd(); }

  private:
    static std::optional<Item> item(std::optional<detail::CompletionSet::Done> done) {
        if (!done) return {};
        return Item{Future<T>(std::move(done->task)), done->tag};
    }
    detail::CompletionSet set_;
};

}  // namespace sidestep

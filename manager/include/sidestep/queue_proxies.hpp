// Queues, values and arrays that live in a server: QueueProxy, JoinableQueueProxy, ValueProxy,
// ArrayProxy. A Manager makes them.
//
// A call that waits (put, get, join) waits at the server, and holds up nobody else. An item that
// was taken for a process that dies before it has it is lost.
//
// Threads, Fork, Peer death: as Proxy (proxy.hpp). Errors: those, and QueueShutDown and
// PutAfterShutDown as Queue has them (queue.hpp).
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include <sidestep/container_proxies.hpp>
#include <sidestep/proxy.hpp>
#include <sidestep/timeout.hpp>

namespace sidestep::inline v0 {

namespace detail {

[[noreturn]] void throw_queue_shut_down();
[[noreturn]] void throw_put_after_shut_down();
[[noreturn]] void throw_too_many_done();

template <class T>
class QueueObject {
  public:
    // 0: without a bound.
    explicit QueueObject(std::size_t max_items) : max_items_(max_items) {}
    bool put(T item, std::chrono::nanoseconds timeout) {
        if (!wait_here([&] { return shut_down_ || !full(); }, deadline_after(Timeout(timeout))))
            return false;
        if (shut_down_) throw_put_after_shut_down();
        items_.push_back(std::move(item));
        ++unfinished_;
        return true;
    }
    std::optional<T> get(std::chrono::nanoseconds timeout) {
        if (!wait_here([&] { return shut_down_ || !items_.empty(); },
                       deadline_after(Timeout(timeout))))
            return {};
        if (items_.empty()) throw_queue_shut_down();
        std::optional<T> item(std::move(items_.front()));
        items_.pop_front();
        return item;
    }
    std::size_t size() const { return items_.size(); }
    bool full() const { return max_items_ > 0 && items_.size() >= max_items_; }
    void shut_down(bool drop) {
        shut_down_ = true;
        if (!drop) return;
        unfinished_ -= items_.size();
        items_.clear();
    }
    void task_done() {
        if (unfinished_ == 0) throw_too_many_done();
        --unfinished_;
    }
    bool join(std::chrono::nanoseconds timeout) {
        return wait_here([&] { return unfinished_ == 0; }, deadline_after(Timeout(timeout)));
    }
    std::size_t unfinished() const { return unfinished_; }

  private:
    const std::size_t max_items_;
    std::deque<T> items_;
    std::size_t unfinished_ = 0;
    bool shut_down_ = false;
};

template <class T>
class ValueObject {
  public:
    explicit ValueObject(T value) : value_(std::move(value)) {}
    T& slot(bool) { return value_; }
    T get() const { return value_; }
    void set(T value) { value_ = std::move(value); }

  private:
    T value_;
};

}  // namespace detail

// Items in the order in which they were put. A type whose descriptors travel is no item.
template <class T>
class QueueProxy : public Proxy<detail::QueueObject<T>> {
    using Object = detail::QueueObject<T>;

  public:
    using Proxy<Object>::Proxy;

    void put(const T& item) const { (void)put_for(item, Timeout::forever()); }
    // False: it was full all the time.
    [[nodiscard]] bool put_for(const T& item, Timeout timeout) const {
        return this->template call<&Object::put>(item, timeout.time());
    }
    [[nodiscard]] bool try_put(const T& item) const { return put_for(item, Timeout()); }
    T get() const { return *get_for(Timeout::forever()); }
    // Nothing: there was none all the time.
    [[nodiscard]] std::optional<T> get_for(Timeout timeout) const {
        return this->template call<&Object::get>(timeout.time());
    }
    [[nodiscard]] std::optional<T> try_get() const { return get_for(Timeout()); }

    std::size_t size() const { return this->template call<&Object::size>(); }
    bool empty() const { return size() == 0; }
    bool full() const { return this->template call<&Object::full>(); }
    // From now on put() throws PutAfterShutDown, and get() QueueShutDown once it is empty (with
    // `drop`, it is).
    void shut_down(bool drop = false) const { this->template call<&Object::shut_down>(drop); }
};

// A queue that knows when all its items are done.
template <class T>
class JoinableQueueProxy : public QueueProxy<T> {
    using Object = detail::QueueObject<T>;

  public:
    using QueueProxy<T>::QueueProxy;

    // An item that was got is done. Throws std::logic_error if all were done before.
    void task_done() const { this->template call<&Object::task_done>(); }
    // Waits until all items that were put are done.
    void join() const { (void)join_for(Timeout::forever()); }
    [[nodiscard]] bool join_for(Timeout timeout) const {
        return this->template call<&Object::join>(timeout.time());
    }
    std::size_t unfinished() const { return this->template call<&Object::unfinished>(); }
};

template <class T>
class ValueProxy : public Proxy<detail::ValueObject<T>> {
    using Object = detail::ValueObject<T>;

  public:
    using Proxy<Object>::Proxy;

    T get() const { return this->template call<&Object::get>(); }
    void set(const T& value) const { this->template call<&Object::set>(value); }
    template <class F, class... Args>  // f(T&, args...) as one step
    auto update(F, Args&&... args) const {
        return this->call(detail::UpdateAt<F>{}, true, std::forward<Args>(args)...);
    }
};

// So many elements as it was made with.
template <class T>
class ArrayProxy : public Proxy<detail::ListObject<T>> {
    using Object = detail::ListObject<T>;

  public:
    using Proxy<Object>::Proxy;

    T at(std::size_t place) const { return this->template call<&Object::at>(place); }
    T operator[](std::size_t place) const { return at(place); }
    void set(std::size_t place, const T& value) const {
        this->template call<&Object::set>(place, value);
    }
    template <class F, class... Args>  // f(T&, args...) as one step
    auto update(std::size_t place, F, Args&&... args) const {
        return this->call(detail::UpdateAt<F>{}, place, std::forward<Args>(args)...);
    }
    std::size_t size() const { return this->template call<&Object::size>(); }
    std::vector<T> snapshot() const { return this->template call<&Object::snapshot>(); }
};

}  // namespace sidestep

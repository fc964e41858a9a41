// Containers that live in a server and all may change: DictProxy, ListProxy, SetProxy. A Manager
// makes them (manager.dict<K, V>(), list<T>(), set<T>()).
//
//     auto totals = manager.dict<std::string, int>();
//     totals.update("to", [](int& n, int more) { n += more; }, 1);   // one step: nothing is lost
//     for (const auto& [word, n] : totals) use(word, n);             // fetched by pages
//
// Each call is one step at the server; two calls are two: what must not come between goes into one
// update(). An element that is a proxy is shared; any other is a copy: to change what at() returned
// changes nothing there.
//
// Iteration:  fetches 256 elements at a time. Each page is as the container is at that moment: of a
//             dict or set, elements that are there all the time come once; of a list, which goes by
//             places, what is inserted or erased before the place meanwhile shifts the rest.
//             snapshot() is one moment's all.
// Threads, Fork, Peer death, Errors: as Proxy (proxy.hpp). std::out_of_range for a key or a place
//             that is not there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sidestep/proxy.hpp>

namespace sidestep::inline v0 {

namespace detail {

inline constexpr std::size_t kPage = 256;

[[noreturn]] void throw_no_key();
[[noreturn]] void throw_no_place(std::size_t place, std::size_t size);
[[noreturn]] void throw_no_value();

// f(element, args...) as one call.
template <class F>
struct UpdateAt {
    static_assert(Captureless<F>,
                  "update() takes a lambda without captures: pass what it needs as arguments");
    template <class Object, class Key, class... Args>
    auto operator()(Object& object, Key&& key, Args&&... args) const {
        return F{}(object.slot(std::forward<Key>(key)), std::forward<Args>(args)...);
    }
};

// The elements, page by page. fetch(last element or null, how many there were before)
template <class T>
class PageIterator {
  public:
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using Fetch = std::function<std::vector<T>(const T* last, std::size_t before)>;

    explicit PageIterator(Fetch fetch) : fetch_(std::move(fetch)) { load(nullptr); }
    const T& operator*() const { return page_[at_]; }
    const T* operator->() const { return &page_[at_]; }
    PageIterator& operator++() {
        if (++at_ < page_.size()) return *this;
        before_ += at_;
        at_ = 0;
        load(&page_.back());
        return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return page_.empty(); }

  private:
    void load(const T* last) {
        std::vector<T> next = fetch_(last, before_);
        page_.assign(std::make_move_iterator(next.begin()), std::make_move_iterator(next.end()));
    }

    Fetch fetch_;
    std::deque<T> page_;  // a vector's elements are no objects where T is bool
    std::size_t at_ = 0, before_ = 0;
};

// Elements of an ordered container from the one behind `last` on, kPage at most.
template <class T, class Container, class Position>
std::vector<T> page_of(const Container& items, Position from) {
    std::vector<T> page;
    for (; from != items.end() && page.size() < kPage; ++from) page.emplace_back(*from);
    return page;
}

// --- what lives in the server ------------------------------------------------------------------

template <class K, class V>
class DictObject {
  public:
    using Map = std::map<K, V>;
    using Item = std::pair<K, V>;

    explicit DictObject(Map items) : items_(std::move(items)) {}
    V& slot(const K& key) { return items_[key]; }
    V at(const K& key) const {
        auto found = items_.find(key);
        if (found == items_.end()) throw_no_key();
        return found->second;
    }
    std::optional<V> get(const K& key) const {
        auto found = items_.find(key);
        return found == items_.end() ? std::optional<V>() : found->second;
    }
    bool insert(K key, V value) { return items_.emplace(std::move(key), std::move(value)).second; }
    bool insert_or_assign(K key, V value) {
        return items_.insert_or_assign(std::move(key), std::move(value)).second;
    }
    V get_or_insert(K key, V value) {
        return items_.emplace(std::move(key), std::move(value)).first->second;
    }
    void insert_all(Map items) {
        for (auto& [key, value] : items) items_.insert_or_assign(key, std::move(value));
    }
    bool erase(const K& key) { return items_.erase(key) > 0; }
    V pop(const K& key) {
        auto node = items_.extract(key);
        if (node.empty()) throw_no_key();
        return std::move(node.mapped());
    }
    Item pop_any() {
        if (items_.empty()) throw_no_key();
        auto node = items_.extract(std::prev(items_.end()));
        return {std::move(node.key()), std::move(node.mapped())};
    }
    bool contains(const K& key) const { return items_.count(key) > 0; }
    std::size_t size() const { return items_.size(); }
    void clear() { items_.clear(); }
    Map snapshot() const { return items_; }
    std::vector<Item> page(std::optional<K> last) const {
        return page_of<Item>(items_, last ? items_.upper_bound(*last) : items_.begin());
    }

  private:
    Map items_;
};

template <class T>
class ListObject {
  public:
    explicit ListObject(std::vector<T> items)
        : items_(std::make_move_iterator(items.begin()), std::make_move_iterator(items.end())) {}
    T& slot(std::size_t place) {
        if (place >= items_.size()) throw_no_place(place, items_.size());
        return items_[place];
    }
    T at(std::size_t place) const { return const_cast<ListObject*>(this)->slot(place); }
    void set(std::size_t place, T value) { slot(place) = std::move(value); }
    void push_back(T value) { items_.push_back(std::move(value)); }
    void extend(std::vector<T> values) {
        items_.insert(items_.end(), std::make_move_iterator(values.begin()),
                      std::make_move_iterator(values.end()));
    }
    void insert(std::size_t place, T value) {
        if (place > items_.size()) throw_no_place(place, items_.size());
        items_.insert(items_.begin() + static_cast<std::ptrdiff_t>(place), std::move(value));
    }
    T pop(std::size_t place) {
        T value = std::move(slot(place));
        items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(place));
        return value;
    }
    T pop_back() {
        if (items_.empty()) throw_no_place(0, 0);
        return pop(items_.size() - 1);
    }
    void repeat(std::size_t times) {
        std::deque<T> all;
        for (std::size_t i = 0; i < times; ++i) all.insert(all.end(), items_.begin(), items_.end());
        items_ = std::move(all);
    }
    std::size_t count(const T& value) const {
        return static_cast<std::size_t>(std::count(items_.begin(), items_.end(), value));
    }
    std::size_t index(const T& value) const {
        auto found = std::find(items_.begin(), items_.end(), value);
        if (found == items_.end()) throw_no_value();
        return static_cast<std::size_t>(found - items_.begin());
    }
    void remove(const T& value) {
        items_.erase(items_.begin() + static_cast<std::ptrdiff_t>(index(value)));
    }
    void sort() { std::sort(items_.begin(), items_.end()); }
    void reverse() { std::reverse(items_.begin(), items_.end()); }
    std::size_t size() const { return items_.size(); }
    void clear() { items_.clear(); }
    std::vector<T> snapshot() const { return std::vector<T>(items_.begin(), items_.end()); }
    std::vector<T> slice(std::size_t begin, std::size_t end) const {
        begin = std::min(begin, items_.size());
        end = std::clamp(end, begin, items_.size());
        return {items_.begin() + static_cast<std::ptrdiff_t>(begin),
                items_.begin() + static_cast<std::ptrdiff_t>(end)};
    }

  private:
    std::deque<T> items_;  // a vector's elements are no objects where T is bool
};

template <class T>
class SetObject {
  public:
    explicit SetObject(std::set<T> items) : items_(std::move(items)) {}
    bool insert(T value) { return items_.insert(std::move(value)).second; }
    bool erase(const T& value) { return items_.erase(value) > 0; }
    bool contains(const T& value) const { return items_.count(value) > 0; }
    std::size_t size() const { return items_.size(); }
    void clear() { items_.clear(); }
    std::set<T> snapshot() const { return items_; }
    std::vector<T> page(std::optional<T> last) const {
        return page_of<T>(items_, last ? items_.upper_bound(*last) : items_.begin());
    }

  private:
    std::set<T> items_;
};

}  // namespace detail

// A std::map<K, V>.
template <class K, class V>
class DictProxy : public Proxy<detail::DictObject<K, V>> {
    using Object = detail::DictObject<K, V>;

  public:
    using Proxy<Object>::Proxy;

    // Throws std::out_of_range; get(): nothing if there is no such key.
    V at(const K& key) const { return this->template call<&Object::at>(key); }
    std::optional<V> get(const K& key) const { return this->template call<&Object::get>(key); }
    // False: there is one already, and it stays.
    bool insert(const K& key, const V& value) const {
        return this->template call<&Object::insert>(key, value);
    }
    // False: there was one.
    bool insert_or_assign(const K& key, const V& value) const {
        return this->template call<&Object::insert_or_assign>(key, value);
    }
    void insert_all(const std::map<K, V>& items) const {
        this->template call<&Object::insert_all>(items);
    }
    // What is there, or else `value`, which is there from now on.
    V get_or_insert(const K& key, const V& value) const {
        return this->template call<&Object::get_or_insert>(key, value);
    }
    // f(V&, args...) as one step, with a new V{} if there was none; returns what f returns. f is a
    // lambda without captures.
    template <class F, class... Args>
    auto update(const K& key, F, Args&&... args) const {
        return this->call(detail::UpdateAt<F>{}, key, std::forward<Args>(args)...);
    }
    bool erase(const K& key) const { return this->template call<&Object::erase>(key); }
    // Take an element out; std::out_of_range if there is none.
    V pop(const K& key) const { return this->template call<&Object::pop>(key); }
    std::pair<K, V> pop_any() const { return this->template call<&Object::pop_any>(); }
    bool contains(const K& key) const { return this->template call<&Object::contains>(key); }
    std::size_t size() const { return this->template call<&Object::size>(); }
    bool empty() const { return size() == 0; }
    void clear() const { this->template call<&Object::clear>(); }
    std::map<K, V> snapshot() const { return this->template call<&Object::snapshot>(); }

    using Iterator = detail::PageIterator<std::pair<K, V>>;
    Iterator begin() const {
        return Iterator([dict = *this](const std::pair<K, V>* last, std::size_t) {
            return dict.template call<&Object::page>(last ? std::optional<K>(last->first)
                                                          : std::optional<K>());
        });
    }
    std::default_sentinel_t end() const { return {}; }
};

// A std::vector<T>.
template <class T>
class ListProxy : public Proxy<detail::ListObject<T>> {
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
    void push_back(const T& value) const { this->template call<&Object::push_back>(value); }
    void extend(const std::vector<T>& values) const {
        this->template call<&Object::extend>(values);
    }
    void insert(std::size_t place, const T& value) const {
        this->template call<&Object::insert>(place, value);
    }
    T pop(std::size_t place) const { return this->template call<&Object::pop>(place); }
    T pop_back() const { return this->template call<&Object::pop_back>(); }
    // So often what is in it, one after the other.
    void repeat(std::size_t times) const { this->template call<&Object::repeat>(times); }
    std::size_t count(const T& value) const { return this->template call<&Object::count>(value); }
    // The first such element; std::out_of_range if there is none.
    std::size_t index(const T& value) const { return this->template call<&Object::index>(value); }
    void remove(const T& value) const { this->template call<&Object::remove>(value); }
    void sort() const { this->template call<&Object::sort>(); }
    void reverse() const { this->template call<&Object::reverse>(); }
    std::size_t size() const { return this->template call<&Object::size>(); }
    bool empty() const { return size() == 0; }
    void clear() const { this->template call<&Object::clear>(); }
    std::vector<T> snapshot() const { return this->template call<&Object::snapshot>(); }
    // Those from `begin` on and before `end`; fewer at the end of the list.
    std::vector<T> slice(std::size_t begin, std::size_t end) const {
        return this->template call<&Object::slice>(begin, end);
    }

    using Iterator = detail::PageIterator<T>;
    Iterator begin() const {
        return Iterator([list = *this](const T*, std::size_t before) {
            return list.slice(before, before + detail::kPage);
        });
    }
    std::default_sentinel_t end() const { return {}; }
};

// A std::set<T>.
template <class T>
class SetProxy : public Proxy<detail::SetObject<T>> {
    using Object = detail::SetObject<T>;

  public:
    using Proxy<Object>::Proxy;

    bool insert(const T& value) const { return this->template call<&Object::insert>(value); }
    bool erase(const T& value) const { return this->template call<&Object::erase>(value); }
    bool contains(const T& value) const { return this->template call<&Object::contains>(value); }
    std::size_t size() const { return this->template call<&Object::size>(); }
    bool empty() const { return size() == 0; }
    void clear() const { this->template call<&Object::clear>(); }
    std::set<T> snapshot() const { return this->template call<&Object::snapshot>(); }

    using Iterator = detail::PageIterator<T>;
    Iterator begin() const {
        return Iterator([set = *this](const T* last, std::size_t) {
            return set.template call<&Object::page>(last ? std::optional<T>(*last)
                                                         : std::optional<T>());
        });
    }
    std::default_sentinel_t end() const { return {}; }
};

}  // namespace sidestep

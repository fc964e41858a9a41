// Containers, queues, values and arrays in a server; CPython's tests of managers.
#include <catch2/catch.hpp>

#include <sidestep/manager.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>

#include <signal.h>

#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "process_support.hpp"
#include "support.hpp"

namespace container_test {

namespace mp = sidestep;
using namespace std::chrono_literals;

namespace {

std::vector<int> range(int end) {
    std::vector<int> numbers(static_cast<std::size_t>(end));
    std::iota(numbers.begin(), numbers.end(), 0);
    return numbers;
}
template <class Proxy>
auto all_of(const Proxy& proxy) {
    std::vector<typename Proxy::Iterator::value_type> all;
    for (const auto& item : proxy) all.push_back(item);
    return all;
}
// Runs f(arguments...) in a process; what it throws fails the test.
template <class F, class... Args>
void in_a_process(F f, const Args&... args) {
    mp::Process process(f, args...);
    process.start();
    process.join();
    process.rethrow();
    CHECK(process.exitcode() == 0);
}
void expect(bool holds, const char* what) {
    if (!holds) throw std::runtime_error(what);
}

struct FooBar {
    std::string f() const { return "f()"; }
    void g() const { throw std::invalid_argument("g()"); }
    std::string h() const { return "_h()"; }
};
void use_foo_bar(mp::Manager& manager) {
    auto foo = manager.make<FooBar>();
    CHECK(foo.call<&FooBar::f>() == "f()");
    CHECK_THROWS_AS(foo.call<&FooBar::g>(), std::invalid_argument);
    CHECK(foo.call<&FooBar::h>() == "_h()");
    std::vector<int> squares;
    for (int i : range(10)) squares.push_back(i * i);
    CHECK(all_of(manager.list<int>(squares)) == squares);
}

}  // namespace

TEST_CASE("a list is extended, sliced, repeated, and holds other lists",
          "[manager][list][py:_TestContainers.test_list]") {
    mp::Manager manager;
    auto a = manager.list<int>(range(10));
    CHECK(a.snapshot() == range(10));
    auto b = manager.list<int>();
    CHECK(b.empty());
    b.extend(range(5));
    CHECK(b.snapshot() == range(5));
    CHECK(b[2] == 2);
    CHECK(b.slice(2, 10) == std::vector<int>{2, 3, 4});
    b.repeat(2);
    const std::vector<int> twice{0, 1, 2, 3, 4, 0, 1, 2, 3, 4};
    CHECK(b.snapshot() == twice);
    CHECK(a.snapshot() == range(10));

    auto e = manager.list<mp::ListProxy<int>>({a, b});
    CHECK(e[0].snapshot() == range(10));
    CHECK(e[1].snapshot() == twice);
    a.push_back(77);
    CHECK(e.at(0).at(10) == 77);
    CHECK_THROWS_AS(a.at(11), std::out_of_range);
    CHECK_THROWS_AS(a.insert(12, 0), std::out_of_range);
    a.insert(11, 78);
    CHECK(a.pop_back() == 78);
    a.remove(77);
    CHECK_THROWS_AS(a.remove(77), std::out_of_range);
    CHECK(a.update(
              3, [](int& n, int by) { return n += by; }, 10) == 13);
    CHECK(a.at(3) == 13);
    a.clear();
    CHECK_THROWS_AS(a.pop_back(), std::out_of_range);
}

TEST_CASE("iteration over a list goes by pages, and sees changes that lie ahead",
          "[manager][list][py:_TestContainers.test_list_iter]") {
    mp::Manager manager;
    for (int size : {0, 1, 255, 256, 257, 600})
        CHECK(all_of(manager.list<int>(range(size))) == range(size));
    auto a = manager.list<int>(range(600));
    auto at = a.begin();
    for (int i = 0; i < 600; ++i) ++at;
    CHECK(at == a.end());  // and stays there
    at = a.begin();
    a.set(300, 100);
    for (int i = 0; i < 300; ++i) ++at;
    CHECK(*at == 100);
}

TEST_CASE("lists in a list are shared, not copied",
          "[manager][list][py:_TestContainers.test_list_proxy_in_list]") {
    mp::Manager manager;
    auto a = manager.list<mp::ListProxy<int>>();
    for (int i = 0; i < 3; ++i) a.push_back(manager.list<int>(range(3)));
    for (const auto& inner : a) CHECK(inner.snapshot() == range(3));
    a[0].set(2, 55);
    CHECK(a[0].snapshot() == std::vector<int>{0, 1, 55});
    for (std::size_t i : {1u, 2u}) CHECK(a[i].snapshot() == range(3));
    CHECK(a[1].pop_back() == 2);
    CHECK(a[1].size() == 2);
    CHECK(a[2].size() == 3);
}

TEST_CASE("a dict is written, read and copied", "[manager][dict][py:_TestContainers.test_dict]") {
    mp::Manager manager;
    auto d = manager.dict<int, char>();
    std::map<int, char> expected;
    for (int i = 65; i < 70; ++i) {
        CHECK(d.insert_or_assign(i, static_cast<char>(i)));
        expected[i] = static_cast<char>(i);
    }
    CHECK(d.snapshot() == expected);
    CHECK(d.at(66) == 'B');
    CHECK(d.get(66) == std::optional<char>('B'));
    CHECK_FALSE(d.get(1));
    CHECK_THROWS_AS(d.at(1), std::out_of_range);
    CHECK_FALSE(d.insert(65, 'x'));
    CHECK(d.at(65) == 'A');
    CHECK_FALSE(d.insert_or_assign(65, 'x'));
    CHECK(d.at(65) == 'x');
    CHECK(d.get_or_insert(65, 'y') == 'x');
    CHECK(d.get_or_insert(70, 'F') == 'F');
    CHECK(d.pop(70) == 'F');
    CHECK_THROWS_AS(d.pop(70), std::out_of_range);
    CHECK(d.erase(65));
    CHECK_FALSE(d.erase(65));
    d.insert_all({{1, 'a'}, {66, 'b'}});
    CHECK(d.at(66) == 'b');
    CHECK(d.size() == 5);
    d.clear();
    CHECK_THROWS_AS(d.pop_any(), std::out_of_range);
}

TEST_CASE("iteration over a dict comes to each element that stays, once",
          "[manager][dict][py:_TestContainers.test_dict_iter]") {
    mp::Manager manager;
    std::map<int, int> items;
    for (int i = 0; i < 600; ++i) items[i] = i * i;
    auto d = manager.dict<int, int>(items);
    std::map<int, int> seen;
    for (const auto& [key, value] : d) CHECK(seen.emplace(key, value).second);
    CHECK(seen == items);
    seen.clear();
    for (const auto& [key, value] : d) {
        CHECK(seen.emplace(key, value).second);
        if (key == 10) d.erase(5), d.erase(300), d.insert(1000, 1);
    }
    items.erase(300);
    items[1000] = 1;
    CHECK(seen == items);
}

TEST_CASE("dicts in a dict are shared, and live as long as somebody has them",
          "[manager][dict][py:_TestContainers.test_dict_proxy_nested]") {
    using Dict = mp::DictProxy<std::string, int>;
    mp::Manager manager;
    auto pets = manager.dict<std::string, int>({{"ferrets", 2}, {"hamsters", 4}});
    auto supplies = manager.dict<std::string, int>({{"water", 10}, {"feed", 3}});
    auto d = manager.dict<std::string, Dict>({{"pets", pets}, {"supplies", supplies}});
    CHECK(supplies.at("water") == 10);
    CHECK(d.at("supplies").at("water") == 10);
    d.at("supplies").insert("blankets", 5);
    CHECK(supplies.at("blankets") == 5);
    d.at("supplies").insert_or_assign("water", 7);
    CHECK(supplies.at("water") == 7);
    pets = {};
    supplies = {};
    CHECK(d.at("pets").snapshot() == std::map<std::string, int>{{"ferrets", 2}, {"hamsters", 4}});
    d.at("supplies").insert_or_assign("blankets", 6);
    CHECK(d.at("supplies").at("blankets") == 6);
    auto list = manager.list<mp::DictProxy<std::string, Dict>>({d});
    list[0].at("supplies").insert_or_assign("water", 2);
    CHECK(d.at("supplies").at("water") == 2);
    d = {};
    CHECK(list[0].at("supplies").at("water") == 2);
}

TEST_CASE("a queue in a list is put and got through it",
          "[manager][queue][py:_TestContainers.test_nested_queue]") {
    mp::Manager manager;
    auto a = manager.list<mp::QueueProxy<int>>();
    a.push_back(manager.queue<int>());
    a[0].put(123);
    CHECK(a[0].get() == 123);
    auto b = manager.list<mp::QueueProxy<int>>({manager.queue<int>()});
    b[0].put(5);
    CHECK(b[0].get() == 5);
}

TEST_CASE("update is one step: nothing of several processes is lost", "[manager][dict]") {
    mp::Manager manager;
    auto d = manager.dict<std::string, int>();
    auto count = [](mp::DictProxy<std::string, int> totals) {
        for (int i = 0; i < 200; ++i)
            totals.update(
                "n", [](int& n, int by) { n += by; }, 1);
    };
    mp::Process one(count, d), two(count, d);
    one.start(), two.start(), one.join(), two.join();
    CHECK(d.at("n") == 400);
}

// A std::vector of them has no elements that could be referred to.
TEST_CASE("containers of bools are as those of other types", "[manager][list]") {
    mp::Manager manager;
    auto bits = manager.list<bool>({true, false});
    bits.push_back(true);
    bits.update(0, [](bool& bit) { bit = !bit; });
    bits.extend({false});
    bits.set(3, true);
    CHECK(bits.snapshot() == std::vector<bool>{false, false, true, true});
    CHECK(bits.at(2));
    CHECK_FALSE(bits.pop(1));
    bits.repeat(100);
    std::vector<bool> seen;
    for (bool bit : bits) seen.push_back(bit);
    CHECK(seen == bits.snapshot());
    CHECK(bits.count(true) == 200);
    auto array = manager.array<bool>({false, false});
    array.update(1, [](bool& bit) { bit = true; });
    CHECK(array.snapshot() == std::vector<bool>{false, true});
    auto names = manager.dict<std::string, bool>();
    names.update("a", [](bool& bit) { bit = !bit; });
    CHECK(names.at("a"));
}

TEST_CASE("a set has each value once", "[manager][set]") {
    mp::Manager manager;
    auto s = manager.set<std::string>({"a"});
    CHECK(s.insert("b"));
    CHECK_FALSE(s.insert("a"));
    CHECK(s.contains("b"));
    CHECK(all_of(s) == std::vector<std::string>{"a", "b"});
    CHECK(s.erase("a"));
    CHECK_FALSE(s.erase("a"));
    CHECK(s.snapshot() == std::set<std::string>{"b"});
    s.clear();
    CHECK(s.empty());
}

TEST_CASE("a queue's calls wait, time out, and end with it", "[manager][queue]") {
    mp::Manager manager;
    auto q = manager.queue<int>(1);
    CHECK_FALSE(q.try_get());
    CHECK_FALSE(q.get_for(1ms));
    CHECK(q.try_put(1));
    CHECK_FALSE(q.try_put(2));
    CHECK_FALSE(q.put_for(2, 1ms));
    std::thread getter([&] {
        CHECK(q.get() == 1);
        CHECK(q.get() == 2);
    });
    q.put(2);
    getter.join();
    q.put(3);
    q.shut_down();
    CHECK_THROWS_AS(q.put(4), mp::PutAfterShutDown);
    CHECK(q.get() == 3);
    CHECK_THROWS_AS(q.get(), mp::QueueShutDown);
}

// --- CPython's tests of each type in another process -------------------------------------------

TEST_CASE("another process empties a queue",
          "[manager][queue][py:TestSyncManagerTypes.test_queue]") {
    mp::Manager manager;
    auto q = manager.queue<int>(2);
    q.put(5);
    q.put(6);
    in_a_process(
        [](mp::QueueProxy<int> o) {
            expect(o.size() == 2 && o.full() && !o.empty(), "full");
            expect(o.get() == 5 && !o.empty() && o.get() == 6 && o.empty(), "items in order");
        },
        q);
    CHECK(q.empty());
    CHECK_FALSE(q.full());
}

TEST_CASE("another process does what is in a joinable queue",
          "[manager][queue][py:TestSyncManagerTypes.test_joinable_queue]") {
    mp::Manager manager;
    auto q = manager.joinable_queue<int>(2);
    q.put(5);
    q.put(6);
    CHECK_FALSE(q.join_for(1ms));
    in_a_process(
        [](mp::JoinableQueueProxy<int> o) {
            expect(o.size() == 2 && o.full(), "full");
            for (int item : {5, 6}) {
                expect(o.get() == item, "items in order");
                o.task_done();
            }
        },
        q);
    q.join();
    CHECK(q.unfinished() == 0);
    CHECK(q.empty());
    CHECK_THROWS_AS(q.task_done(), std::logic_error);
}

TEST_CASE("another process reads and changes a list",
          "[manager][list][py:TestSyncManagerTypes.test_list]") {
    mp::Manager manager;
    auto list = manager.list<int>();
    list.push_back(5);
    in_a_process(
        [](mp::ListProxy<int> o) {
            expect(o[0] == 5 && o.count(5) == 1 && o.index(5) == 0, "the element");
            o.sort();
            o.reverse();
            expect(all_of(o).size() == 1 && o.size() == 1 && o.pop(0) == 5, "one element");
        },
        list);
    CHECK(list.empty());
    CHECK(list.size() == 0);
}

TEST_CASE("another process reads and changes a dict",
          "[manager][dict][py:TestSyncManagerTypes.test_dict]") {
    mp::Manager manager;
    auto dict = manager.dict<std::string, int>();
    dict.insert("foo", 5);
    in_a_process(
        [](mp::DictProxy<std::string, int> o) {
            using Item = std::pair<std::string, int>;
            expect(o.size() == 1 && o.at("foo") == 5 && o.get("foo") == 5, "the element");
            expect(all_of(o) == std::vector<Item>{{"foo", 5}}, "iteration");
            expect(o.snapshot().size() == 1 && o.pop_any() == Item("foo", 5), "taken out");
        },
        dict);
    CHECK(dict.empty());
    CHECK(dict.size() == 0);
}

TEST_CASE("another process sets a value", "[manager][value][py:TestSyncManagerTypes.test_value]") {
    mp::Manager manager;
    auto value = manager.value<int>(1);
    in_a_process(
        [](mp::ValueProxy<int> o) {
            expect(o.get() == 1, "the value");
            o.set(2);
        },
        value);
    CHECK(value.get() == 2);
    CHECK(value.update([](int& n, int by) { return n += by; }, 3) == 5);
}

TEST_CASE("another process reads an array",
          "[manager][array][py:TestSyncManagerTypes.test_array]") {
    mp::Manager manager;
    auto array = manager.array<int>({0, 1});
    in_a_process(
        [](mp::ArrayProxy<int> o) {
            expect(o[0] == 0 && o[1] == 1 && o.size() == 2, "the elements");
            expect(o.snapshot() == std::vector<int>{0, 1}, "all of them");
            o.set(1, 9);
        },
        array);
    CHECK(array.at(1) == 9);
    CHECK_THROWS_AS(array.set(2, 0), std::out_of_range);
}

// --- managers of one's own types -----------------------------------------------------------------

TEST_CASE("types of one's own, then an orderly end",
          "[manager][py:_TestMyManager.test_mymanager]") {
    mp::Manager manager;
    use_foo_bar(manager);
    manager.shutdown();
    CHECK(manager.exitcode() == 0);
    manager.shutdown();  // nothing more to do
}

TEST_CASE("a manager ends with its scope", "[manager][py:_TestMyManager.test_mymanager_context]") {
    int pid = 0;
    {
        mp::Manager manager;
        pid = manager.pid();
        use_foo_bar(manager);
        CHECK(manager.is_alive());
    }
    CHECK(::kill(pid, 0) == -1);  // reaped
}

TEST_CASE("a manager that serves before its scope is entered ends with it, too",
          "[manager][py:_TestMyManager.test_mymanager_context_prestarted]") {
    auto manager = std::make_unique<mp::Manager>();
    const int pid = manager->pid();
    CHECK(manager->is_alive());
    use_foo_bar(*manager);
    {
        auto scope = std::move(manager);
        CHECK_FALSE(scope->exitcode());
    }
    CHECK(::kill(pid, 0) == -1);
}

TEST_CASE("the initializer runs in the server, once",
          "[manager][py:TestInitializers.test_manager_initializer]") {
    mp::Manager other;
    auto runs = other.value<int>(0);
    mp::Manager manager({.initializer = mp::bind(
                             [](mp::ValueProxy<int> n) { n.update([](int& i) { ++i; }); }, runs)});
    CHECK(runs.get() == 1);
    CHECK(manager.value<int>(3).get() == 3);
    CHECK(runs.get() == 1);
    manager.shutdown();
    CHECK(manager.exitcode() == 0);
}

}  // namespace container_test

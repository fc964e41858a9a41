#include <sidestep/value.hpp>

#include <sys/resource.h>

#include <array>
#include <atomic>
#include <mutex>
#include <numeric>

#include <catch2/catch.hpp>

#include <sidestep/shared_memory.hpp>

#include "processes.hpp"

namespace value_test {

using namespace sidestep;
using namespace std::chrono_literals;

namespace {

template <template <class...> class V>
void change_all() {
    V<int> i(4343);
    V<double> d(3.625);
    V<short> h(short(-232));
    V<long long> q(1LL << 33);
    V<char> c('x');
    CHECK(i.value() == 4343);
    CHECK(d.value() == 3.625);
    CHECK(h.value() == -232);
    CHECK(q.value() == 1LL << 33);
    CHECK(c.value() == 'x');
    test::Child child([&] {
        i.value() = 24234;
        d.value() = -4.25;
        h.value() = 234;
        q.value() = 1LL << 34;
        c.value() = 'y';
    });
    CHECK(child.wait() == 0);
    CHECK(i.value() == 24234);
    CHECK(d.value() == -4.25);
    CHECK(h.value() == 234);
    CHECK(q.value() == 1LL << 34);
    CHECK(c.value() == 'y');
}

template <class V>
concept HasMutex = requires(V& v) {
    v.mutex();
};

void accumulate(std::span<int> items) {
    for (std::size_t i = 1; i < items.size(); ++i) items[i] += items[i - 1];
}

template <template <class...> class A>
void share_array() {
    std::vector<int> model = {680, 626, 934, 821, 150, 233, 548, 982, 714, 831};
    A<int> array{std::span<const int>(model)};
    CHECK(array.size() == model.size());
    CHECK(array[3] == model[3]);
    CHECK(std::equal(array.begin() + 2, array.begin() + 7, model.begin() + 2));
    std::iota(array.begin() + 4, array.begin() + 8, 1);
    std::iota(model.begin() + 4, model.begin() + 8, 1);
    CHECK(std::equal(array.begin(), array.end(), model.begin(), model.end()));
    accumulate(model);
    test::Child child([&] { accumulate(array.span()); });
    CHECK(child.wait() == 0);
    CHECK(std::equal(array.begin(), array.end(), model.begin(), model.end()));
}

struct Point {
    int x = 0;
    double y = 0;
};

template <template <class...> class V, template <class...> class A>
void double_all() {
    V<int> x(7);
    V<double> y(1.0 / 3.0);
    V<long long> z(1LL << 33);
    V<Point> point(Point{3, 2});
    A<double> array(10);
    std::iota(array.begin(), array.end(), 0.0);
    A<char> text(20);
    std::string_view hello = "hello";
    std::copy(hello.begin(), hello.end(), text.begin());
    test::Child child([&] {
        x.value() *= 2;
        y.value() *= 2;
        z.value() *= 2;
        point.value().x *= 2;
        point.value().y *= 2;
        for (double& item : array) item *= 2;
        std::copy(text.begin(), text.begin() + 5, text.begin() + 5);
    });
    CHECK(child.wait() == 0);
    CHECK(x.value() == 14);
    CHECK(y.value() == 2.0 / 3.0);
    CHECK(z.value() == 1LL << 34);
    CHECK(point.value().x == 6);
    CHECK(point.value().y == 4.0);
    for (std::size_t i = 0; i < 10; ++i) CHECK(array[i] == 2.0 * double(i));
    CHECK(std::string(text.data()) == "hellohello");
}

}  // namespace

TEST_CASE("a value is shared with a child", "[ipc][value][py:_TestValue.test_value]") {
    change_all<Value>();
}

TEST_CASE("a raw value is shared with a child", "[ipc][value][py:_TestValue.test_rawvalue]") {
    change_all<RawValue>();
}

TEST_CASE("a value has a lock of its own or a given one, a raw value none",
          "[ipc][value][py:_TestValue.test_getobj_getlock]") {
    Value<int> own(5);
    CHECK(own.mutex().try_lock());
    own.mutex().unlock();
    CHECK(own.raw().value() == 5);
    Lock lock;
    Value<int, Lock> given(5, lock);
    CHECK(given.mutex() == lock);
    STATIC_REQUIRE(HasMutex<Value<int>>);
    STATIC_REQUIRE_FALSE(HasMutex<RawValue<int>>);
}

TEST_CASE("an array is shared with a child", "[ipc][value][py:_TestArray.test_array]") {
    share_array<Array>();
}

TEST_CASE("a raw array is shared with a child", "[ipc][value][py:_TestArray.test_rawarray]") {
    share_array<RawArray>();
}

TEST_CASE("an array of a size is zeros, also where there was another before",
          "[ipc][value][py:_TestArray.test_array_from_size]") {
    for (std::size_t size : {10u, 10u, 10u, 100000u, 100000u}) {
        Array<int> array(size);
        CHECK(array.size() == size);
        CHECK(std::all_of(array.begin(), array.end(), [](int item) { return item == 0; }));
        std::iota(array.begin(), array.end(), 0);
        CHECK(array[size - 1] == int(size) - 1);
    }
}

TEST_CASE("an array has a lock of its own or a given one, a raw array none",
          "[ipc][value][py:_TestArray.test_getobj_getlock_obj]") {
    std::vector<int> items(10, 1);
    Array<int> own(items);
    CHECK(own.mutex().try_lock());
    own.mutex().unlock();
    CHECK(own.raw().size() == 10);
    Lock lock;
    Array<int, Lock> given(items, lock);
    CHECK(given.mutex() == lock);
    STATIC_REQUIRE(HasMutex<Array<int>>);
    STATIC_REQUIRE_FALSE(HasMutex<RawArray<int>>);
}

TEST_CASE("structures, arrays and text are shared without locks",
          "[ipc][value][py:_TestSharedCTypes.test_sharedctypes]") {
    double_all<RawValue, RawArray>();
}

TEST_CASE("structures, arrays and text are shared with locks",
          "[ipc][value][py:_TestSharedCTypes.test_synchronize]") {
    double_all<Value, Array>();
}

TEST_CASE("a copy is as the original was", "[ipc][value][py:_TestSharedCTypes.test_copy]") {
    RawValue<Point> point(Point{2, 5.0});
    RawValue<Point> twin = copy(point);
    point.value() = {0, 0};
    CHECK(twin.value().x == 2);
    CHECK(twin.value().y == 5.0);
    RawArray<int> numbers{1, 2, 3};
    RawArray<int> others = copy(numbers);
    numbers[0] = 9;
    CHECK(others[0] == 1);
    CHECK_FALSE(others == numbers);
}

TEST_CASE("the lock of a value makes += whole, and survives its holder", "[ipc][value]") {
    Value<long> total(0);
    auto tally = [&] {
        for (int i = 0; i < 10000; ++i) {
            std::scoped_lock lock(total.mutex());
            total.value() += 1;
        }
    };
    test::Child a(tally), b(tally);
    CHECK(a.wait() == 0);
    CHECK(b.wait() == 0);
    CHECK(total.value() == 20000);
    test::Child dies([&] {
        total.mutex().lock();
        raise(SIGKILL);
    });
    dies.wait();
    std::scoped_lock lock(total.mutex());
    CHECK(total.mutex().owner_died());
}

TEST_CASE("an atomic is shared without a lock", "[ipc][value]") {
    RawValue<std::atomic<long>> count;
    auto add = [&] {
        for (int i = 0; i < 10000; ++i) ++count.value();
    };
    test::Child a(add), b(add);
    CHECK(a.wait() == 0);
    CHECK(b.wait() == 0);
    CHECK(count.value() == 20000);
}

TEST_CASE("a value that cannot be moved, such as an atomic, is made in its place", "[ipc][value]") {
    Value<std::atomic<int>> zero, seven(7);
    CHECK(zero.value() == 0);
    CHECK(test::travel(seven).value() == 7);
    Array<std::atomic<int>> many(3);
    ++many[2];
    CHECK(test::travel(many)[2] == 1);
}

TEST_CASE("an array without elements has its lock, also after a journey", "[ipc][value][travel]") {
    for (const Array<int>& array : {Array<int>(), Array<int>(0)}) {
        Array<int> travelled = test::travel(array);
        CHECK(travelled.empty());
        std::scoped_lock lock(array.mutex());
        CHECK(travelled.mutex() == array.mutex());
    }
}

TEST_CASE("a limit on the size of files is an error that names it, not a signal", "[ipc][value]") {
    auto error_of = [](auto make) {
        try {
            make();
        } catch (const std::system_error& error) {
            bool is_named = std::string(error.what()).find("ulimit -f") != std::string::npos;
            return is_named && error.code() == std::errc::file_too_large;
        }
        return false;
    };
    test::Child child([&] {
        rlimit limit = {512 << 10, 512 << 10};
        if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
        if (!error_of([] { Lock lock; })) return 2;
        if (!error_of([] { RawArray<char> array(1 << 20); })) return 3;
        if (!error_of([] { SharedMemory memory(create_only, 1 << 20); })) return 4;
        return RawArray<char>(500 << 10).size() == 500 << 10 ? 0 : 5;
    });
    CHECK(child.wait() == 0);
}

TEST_CASE("values and arrays work in a process that is older than they", "[ipc][value][travel]") {
    test::Channel channel;
    test::Child child([&] {
        Value<int> value{detail::Blank{}};
        Array<double> array;
        Array<double> none;
        channel.receive(value, array, none);
        if (!none.empty() || array.size() != (std::size_t(1) << 27)) return 1;
        value.value() = 42;
        array[array.size() - 1] = 2.5;
        return array.mutex().try_lock() ? 0 : 2;
    });
    Value<int> value(1);
    Array<double> array(std::size_t(1) << 27);  // 1 GiB, of which two pages are touched
    channel.send(value, array, Array<double>());
    CHECK(child.wait() == 0);
    CHECK(value.value() == 42);
    CHECK(array[array.size() - 1] == 2.5);
    CHECK(array.mutex().try_lock());
    CHECK(array.mutex().owner_died());
    array.mutex().unlock();
}

TEST_CASE("passing an array costs what passing one element costs", "[ipc][value][travel]") {
    // Counted, not timed: bytes in the message, descriptors beside it, pages of memory.
    struct Cost {
        std::size_t bytes, fds;
        long pages;
    };
    auto cost = [](const Array<char>& array) {
        detail::HeapBuffer buffer;
        test::FdCollector fds;
        OutputArchive archive(buffer, &fds);
        rusage before = {}, after = {};
        ::getrusage(RUSAGE_THREAD, &before);
        archive(array);
        ::getrusage(RUSAGE_THREAD, &after);
        return Cost{buffer.size(), fds.fds.size(), after.ru_minflt - before.ru_minflt};
    };
    Array<char> small(1), large(std::size_t(1) << 30);
    large[0] = 1;
    (void)cost(small);  // the first time touches code and stack
    Cost one = cost(small), many = cost(large);
    CHECK(many.bytes == one.bytes);
    CHECK(many.bytes < 64);
    CHECK(many.fds <= 2);  // a small one may lie in the segment of its lock
    CHECK(many.fds <= one.fds + 1);
    CHECK(many.pages < one.pages + 100);  // of 262,144

    test::Channel channel;
    test::SharedPage<std::atomic<long>> faults;
    test::Child receiver([&] {
        rusage before = {}, after = {};
        ::getrusage(RUSAGE_SELF, &before);
        auto array = channel.receive<Array<char>>();
        ::getrusage(RUSAGE_SELF, &after);
        *faults = after.ru_minflt - before.ru_minflt;
        return array.size() == std::size_t(1) << 30 && array[0] == 1 ? 0 : 1;
    });
    channel.send(large);
    CHECK(receiver.wait() == 0);
    CHECK(*faults < 200);  // of the 262,144 that it has
}

TEST_CASE("an array of other elements is refused", "[ipc][value][travel]") {
    test::Channel channel;
    channel.send(RawArray<int>(10));
    CHECK_THROWS_AS(channel.receive<RawArray<double>>(), SerializationError);
    channel.send(RawArray<int>(10), Lock());
    RawArray<int> array;
    RawArray<int> other;
    CHECK_THROWS_AS(channel.receive(array, other), SerializationError);
}

TEST_CASE("an index beyond the end is caught by at(), a size beyond the machine by the constructor",
          "[ipc][value]") {
    RawArray<int> array{1, 2, 3};
    CHECK(array.at(2) == 3);
    CHECK_THROWS_AS(array.at(3), std::out_of_range);
    CHECK(RawArray<int>(0).empty());
    CHECK_THROWS_AS(RawArray<int>(std::size_t(1) << 62), std::bad_alloc);
    CHECK_THROWS_AS(RawArray<double>(~std::size_t(0)), std::bad_alloc);
}

}  // namespace value_test

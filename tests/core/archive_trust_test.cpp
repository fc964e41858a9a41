// Bytes from whoever wants in: what they may cost, and what they may not turn into.
#include <algorithm>
#include <cstring>
#include <forward_list>

#include <catch2/catch.hpp>
#include <cereal/types/polymorphic.hpp>

#include "archive_support.hpp"
#include "task_support.hpp"

namespace archive_trust_test {

using namespace test;
using Catch::Contains;
using sidestep::SerializationError;

namespace {

// What is allocated through Counted allocators now, and was at most.
std::size_t live = 0, peak = 0;

template <class T>
struct Counted {
    using value_type = T;
    Counted() = default;
    template <class U>
    Counted(const Counted<U>&) {}  // NOLINT: conversions are what allocators are made of
    T* allocate(std::size_t count) {
        peak = std::max(peak, live += count * sizeof(T));
        return std::allocator<T>().allocate(count);
    }
    void deallocate(T* memory, std::size_t count) {
        live -= count * sizeof(T);
        std::allocator<T>().deallocate(memory, count);
    }
    template <class U>
    bool operator==(const Counted<U>&) const {
        return true;
    }
};

using Block = std::array<double, 512>;
struct User {
    Block block{};
    template <class Archive>
    void serialize(Archive& archive) {
        archive(block);
    }
};

// Every kind of type that contains itself.
struct List {
    int number = 0;
    std::unique_ptr<List> next;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(number, next);
    }
};
struct Shared {
    std::shared_ptr<Shared> next;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(next);
    }
};
struct Tree {
    std::vector<Tree> children;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(children);
    }
};
struct Named {
    std::map<std::string, Named> inside;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(inside);
    }
};

template <class T>
T list_of(int nodes) {
    T first;
    for (T* last = &first; --nodes > 0; last = last->next.get())
        last->next = decltype(last->next)(new T);
    return first;
}
template <class T, class Add>
T nested(int nodes, Add add) {
    T all;
    for (T* last = &all; --nodes > 0;) last = add(*last);
    return all;
}

// Needs load_and_construct.
struct Fixed {
    explicit Fixed(int value) : number(value) {}
    const int number;
    std::shared_ptr<Fixed> friend_of;
    template <class Archive>
    void save(Archive& archive) const {
        archive(number, friend_of);
    }
    template <class Archive>
    static void load_and_construct(Archive& archive, cereal::construct<Fixed>& construct) {
        int number = 0;
        std::shared_ptr<Fixed> other;
        archive(number, other);
        construct(number);
        construct->friend_of = std::move(other);
    }
};

struct Animal {
    virtual ~Animal() = default;
    std::uint64_t legs = 4;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(legs);
    }
};
struct Dog final : Animal {
    std::string name;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(cereal::base_class<Animal>(this), name);
    }
};
struct Stone {
    virtual ~Stone() = default;
    template <class Archive>
    void serialize(Archive&) {}
};

using Words = std::array<std::uint64_t, 4>;

Bytes joined(std::initializer_list<Bytes> parts) {
    Bytes all;
    for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
    return all;
}
constexpr std::uint32_t kNew = 0x80000000u;

int add_numbers(int a, int b) { return a + b; }
int add_other(int a, int b) { return a + 2 * b; }
double halve(double a) { return a / 2; }

struct Hidden {  // what no compiler sees
    sidestep::Bound<int (*)(int, int), int> call;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(call);
    }
};

}  // namespace

}  // namespace archive_trust_test

CEREAL_REGISTER_TYPE(archive_trust_test::Dog)
CEREAL_REGISTER_TYPE(archive_trust_test::Stone)

namespace archive_trust_test {

TEMPLATE_TEST_CASE("a megabyte that claims to be more takes a small multiple of a megabyte",
                   "[core][archive][trust]", (std::vector<Block, Counted<Block>>),
                   (std::vector<User, Counted<User>>), (std::deque<User, Counted<User>>),
                   (std::list<User, Counted<User>>), (std::forward_list<User, Counted<User>>),
                   (std::vector<std::list<User>, Counted<std::list<User>>>),
                   (std::vector<std::tuple<int, Block>, Counted<std::tuple<int, Block>>>),
                   (std::deque<std::pair<Block, User>, Counted<std::pair<Block, User>>>),
                   (std::vector<std::array<User, 8>, Counted<std::array<User, 8>>>),
                   (std::list<std::tuple<User, User>, Counted<std::tuple<User, User>>>),
                   (std::map<int, User, std::less<>, Counted<std::pair<const int, User>>>)) {
    constexpr std::uint64_t kBytes = 1 << 20;
    Bytes bytes = joined({saved(kBytes), Bytes(kBytes, std::byte{0})});
    live = peak = 0;
    CHECK_THROWS_AS(loaded<TestType>(bytes), SerializationError);
    CHECK(live == 0);
    CHECK(peak <= 8 * kBytes);
}

TEST_CASE("values are read 1000 deep inside one another, and no deeper", "[core][archive][trust]") {
    // A node is one value, and what holds the next is another.
    CHECK(refuses<List>(saved(list_of<List>(499))) == false);
    CHECK(refuses<List>(saved(list_of<List>(500))) == false);
    CHECK_THROWS_WITH(loaded<List>(saved(list_of<List>(501))), Contains("1000 deep"));
    CHECK(refuses<Shared>(saved(list_of<Shared>(500))) == false);
    CHECK_THROWS_AS(loaded<Shared>(saved(list_of<Shared>(501))), SerializationError);

    auto add_child = [](Tree& tree) { return &tree.children.emplace_back(); };
    CHECK(refuses<Tree>(saved(nested<Tree>(500, add_child))) == false);
    CHECK_THROWS_AS(loaded<Tree>(saved(nested<Tree>(501, add_child))), SerializationError);
    auto add_named = [](Named& named) { return &named.inside["x"]; };
    CHECK(refuses<Named>(saved(nested<Named>(500, add_named))) == false);
    CHECK_THROWS_AS(loaded<Named>(saved(nested<Named>(501, add_named))), SerializationError);
}

TEST_CASE("bytes that go on inside themselves for ever end in an error, not on the stack's end",
          "[core][archive][trust]") {
    Bytes ones(std::size_t(1) << 22, std::byte{1});
    CHECK_THROWS_AS(loaded<List>(ones), SerializationError);
    Bytes trees(std::size_t(1) << 22, std::byte{0});  // each has one child
    for (std::size_t at = 0; at < trees.size(); at += 8) trees[at] = std::byte{1};
    CHECK_THROWS_AS(loaded<Tree>(trees), SerializationError);
}

TEST_CASE("what was too deep does not count against what is read next", "[core][archive][trust]") {
    Bytes deep = saved(list_of<List>(501)), flat = saved(list_of<List>(500));
    sidestep::InputArchive archive(deep);
    List value;
    CHECK_THROWS_AS(archive(value), SerializationError);
    archive.reset(flat);
    archive(value);
    archive.expect_end();
}

TEST_CASE("a shared pointer's number stands for one object of one type", "[core][archive][trust]") {
    // A peer's own numbers, then the same object as a string: with its pointer and its length.
    using Pair = std::pair<std::shared_ptr<Words>, std::shared_ptr<std::string>>;
    Bytes lie = joined({saved(kNew | 1), saved(Words{1, 2, 3, 4}), saved(std::uint32_t(1))});
    CHECK_THROWS_WITH(loaded<Pair>(lie), Contains("is used as a std::"));
    using Weak = std::pair<std::shared_ptr<Words>, std::weak_ptr<std::string>>;
    CHECK_THROWS_AS(loaded<Weak>(lie), SerializationError);
    using Base = std::pair<std::shared_ptr<Words>, std::shared_ptr<Animal>>;
    Bytes animal = joined({saved(kNew | 1), saved(Words{1, 2, 3, 4}),
                           saved(std::uint32_t(0x40000000)), saved(std::uint32_t(1))});
    CHECK_THROWS_WITH(loaded<Base>(animal), Contains("Animal"));
    // The type must be the same whichever comes first, and whatever was registered over it.
    using Triple = std::tuple<std::shared_ptr<int>, std::shared_ptr<double>, std::shared_ptr<int>>;
    Bytes twice =
        joined({saved(kNew | 1), saved(7), saved(kNew | 1), saved(2.5), saved(std::uint32_t(1))});
    CHECK_THROWS_AS(loaded<Triple>(twice), SerializationError);
    CHECK_THROWS_WITH(loaded<std::shared_ptr<int>>(saved(std::uint32_t(3))),
                      Contains("shared pointer 3 was not sent"));
    CHECK(loaded<std::shared_ptr<int>>(saved(std::uint32_t(0))) == nullptr);
}

TEST_CASE("honest sharing arrives: const, weak, by base class, and an object's first member",
          "[core][archive][trust]") {
    auto number = std::make_shared<int>(5);
    using Both = std::tuple<std::shared_ptr<int>, std::shared_ptr<const int>, std::weak_ptr<int>>;
    Both both = loaded<Both>(saved(Both{number, number, number}));
    CHECK(*std::get<0>(both) == 5);
    CHECK(std::get<1>(both) == std::get<0>(both));
    CHECK(std::get<2>(both).lock() == std::get<0>(both));

    auto dog = std::make_shared<Dog>();
    dog->name = "Laika";
    using Kinds = std::pair<std::shared_ptr<Dog>, std::shared_ptr<Animal>>;
    Kinds kinds = loaded<Kinds>(saved(Kinds{dog, dog}));
    CHECK(kinds.first->name == "Laika");
    CHECK(kinds.second == kinds.first);

    // One address, two objects: they arrive as two, not one as the other.
    auto pair = std::make_shared<std::pair<std::string, int>>("first", 2);
    using Parts =
        std::pair<std::shared_ptr<std::pair<std::string, int>>, std::shared_ptr<std::string>>;
    Parts parts = loaded<Parts>(saved(Parts{pair, {pair, &pair->first}}));
    CHECK(parts.first->second == 2);
    CHECK(*parts.second == "first");
}

TEST_CASE("a registered type that is no such animal is refused", "[core][archive][trust]") {
    std::shared_ptr<Stone> stone = std::make_shared<Stone>();
    Bytes bytes =
        joined({saved(kNew | 1), saved(std::string("archive_trust_test::Stone")), saved(kNew | 1)});
    CHECK(refuses<std::shared_ptr<Animal>>(bytes));
    CHECK(refuses<std::unique_ptr<Animal>>(
        joined({saved(kNew | 1), saved(std::string("Rock")), saved(std::uint8_t(1))})));
}

TEST_CASE("an object that is not constructed yet cannot be referred to", "[core][archive][trust]") {
    auto one = std::make_shared<Fixed>(1);
    one->friend_of = std::make_shared<Fixed>(2);
    auto back = loaded<std::vector<std::shared_ptr<Fixed>>>(
        saved(std::vector<std::shared_ptr<Fixed>>{one, one->friend_of}));
    CHECK(back[0]->friend_of == back[1]);
    Bytes itself = joined({saved(kNew | 1), saved(7), saved(std::uint32_t(1))});
    CHECK_THROWS_WITH(loaded<std::shared_ptr<Fixed>>(itself), Contains("before its"));
}

TEST_CASE("a function pointer in a bind() is read from a task's arguments alone",
          "[core][archive][trust]") {
    auto bound = sidestep::bind(&add_numbers, 40);
    CHECK(run_task(bound, 2) == 42);
    CHECK(run_task([](Hidden hidden) { return hidden.call(2); }, Hidden{bound}) == 42);
    CHECK_THROWS_WITH(loaded<decltype(bound)>(saved(bound)), Contains("could name any function"));
    CHECK_THROWS_WITH(loaded<Hidden>(saved(Hidden{bound})), Contains("could name any function"));
    // A lambda is part of the type: its bytes name nothing.
    auto lambda = sidestep::bind([](int a, int b) { return a - b; }, 44);
    CHECK(loaded<decltype(lambda)>(saved(lambda))(2) == 42);
}

TEST_CASE("a function pointer whose bytes are damaged, or of another type, is never called",
          "[core][archive][trust]") {
    auto bound = sidestep::bind(&add_numbers, 40);
    Bytes good = saved(bound);
    auto read = [](const Bytes& bytes, auto value) {
        sidestep::InputArchive archive(bytes);
        archive.allow_functions();
        archive(value);
        return value;
    };
    CHECK(read(good, decltype(bound)())(2) == 42);
    // Module, offset and check word: 24 bytes.
    for (std::size_t bit = 0; bit < 24 * 8; ++bit) {
        Bytes damaged = good;
        damaged[bit / 8] ^= std::byte(1u << bit % 8);
        CHECK_THROWS_AS(read(damaged, decltype(bound)()), SerializationError);
    }
    Bytes other = saved(sidestep::bind(&add_other, 40));
    std::copy_n(other.begin() + 8, 8, good.begin() + 8);  // another function's place
    CHECK_THROWS_AS(read(good, decltype(bound)()), SerializationError);
    Bytes foreign = saved(sidestep::bind(&halve, 4.0));
    CHECK_THROWS_WITH(read(foreign, decltype(bound)()), Contains("of another type"));
}

TEST_CASE("what names code is known to the compiler through every standard template",
          "[core][archive][trust]") {
    using sidestep::detail::names_code;
    using Call = sidestep::Bound<int (*)(int), int>;
    STATIC_REQUIRE(names_code<Call>);
    STATIC_REQUIRE(names_code<sidestep::Bound<List, Call>>);
    STATIC_REQUIRE(names_code<std::vector<Call>>);
    STATIC_REQUIRE(names_code<std::map<int, std::pair<int, std::optional<Call>>>>);
    STATIC_REQUIRE(names_code<std::variant<int, std::shared_ptr<Call>>>);
    STATIC_REQUIRE(names_code<std::array<std::tuple<Call>, 2>>);
    STATIC_REQUIRE_FALSE(names_code<sidestep::Bound<std::plus<>, int>>);
    STATIC_REQUIRE_FALSE(names_code<std::map<std::string, std::vector<double>>>);
}

}  // namespace archive_trust_test

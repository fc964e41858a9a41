#include <sidestep/shareable_list.hpp>

#include <cstdio>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace shareable_list_test {

using namespace sidestep;
using namespace std::string_literals;

namespace {

using Item = ShareableItem;
constexpr std::int64_t operator""_i(unsigned long long n) { return static_cast<std::int64_t>(n); }

ShareableList sample() {
    return {"howdy"s, ByteString{"HoWdY"}, -273.154, 100_i, nullptr, true, 42_i};
}

ShareableList numbers(std::int64_t n) {
    std::vector<Item> items;
    for (std::int64_t i = 0; i < n; ++i) items.emplace_back(i);
    return ShareableList(std::span<const Item>(items));
}

// Runs a Python program; its output.
std::string python(const std::string& program) {
    std::string command = "/usr/bin/python3 -c '" + program + "' 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    std::string out;
    char chunk[256];
    while (std::size_t n = fread(chunk, 1, sizeof chunk, pipe)) out.append(chunk, n);
    pclose(pipe);
    return out;
}
const std::string kPrelude =
    "from multiprocessing import shared_memory as m, resource_tracker as t\n";

}  // namespace

TEST_CASE("a shareable list holds items of several types in fixed places",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_ShareableList_basics]") {
    ShareableList list = sample();
    CHECK_THAT(to_string(list), Catch::Contains(list.memory().name()) &&
                                    Catch::Contains("\"howdy\", b\"HoWdY\", -273.154, 100, None, "
                                                    "True, 42"));
    CHECK_THROWS_AS(list.get(7), std::out_of_range);
    CHECK_THROWS_AS(list.set(7, 2_i), std::out_of_range);
    CHECK_THROWS_AS(list.get(-8), std::out_of_range);
    list.set(0, "howdy"s);
    CHECK(list.format() == "8s8sdqxxxxxx?xxxxxxxx?q");
    CHECK(list.size() == 7);
    CHECK_THROWS_AS(list.index("100"s), std::invalid_argument);
    CHECK(list.index(100_i) == 3);
    CHECK(list.get(0) == Item("howdy"s));
    CHECK(list.get(-2) == Item(true));
    CHECK(list.items() ==
          std::vector<Item>{"howdy"s, ByteString{"HoWdY"}, -273.154, 100_i, nullptr, true, 42_i});
    list.set(3, 42_i);
    CHECK(list.get(3) == Item(42_i));
    list.set(4, "some"s);
    CHECK(list.get(4) == Item("some"s));
    CHECK(list.format() == "8s8sdq8sxxxxxxx?q");
    CHECK_THROWS_WITH(list.set(4, "far too many"s), Catch::Contains("exceeds"));
    CHECK(list.get(4) == Item("some"s));
    list.set(0, "encod\u00e9s"s);  // 8 bytes
    CHECK(list.get(0) == Item("encod\u00e9s"s));
    CHECK(list.get(1) == Item(ByteString{"HoWdY"}));
    CHECK_THROWS_AS(list.set(0, "encod\u00e9es"s), std::length_error);
    CHECK_THROWS_AS(list.set(1, ByteString{"123456789"}), std::length_error);
    CHECK(list.get(1) == Item(ByteString{"HoWdY"}));
    CHECK(list.count(42_i) == 2);
    CHECK(list.count(ByteString{"HoWdY"}) == 1);
    CHECK(list.count(ByteString{"adios"}) == 0);

    std::string name = "test03_duplicate" + std::to_string(getpid());
    std::vector<Item> items = list.items();
    ShareableList twin(std::span<const Item>(items), name);
    CHECK(twin.memory().name() == name);
    CHECK(twin.items() == items);
    CHECK(twin.format() == list.format());
    twin.set(-1, 77_i);
    CHECK(twin.get(-1) == Item(77_i));
    CHECK(list.get(-1) == Item(42_i));

    ShareableList tethered(open_only, list.memory().name());
    tethered.set(-1, 880_i);
    CHECK(list.get(-1) == Item(880_i));

    ShareableList empty;
    CHECK(empty.size() == 0);
    CHECK(empty.format().empty());
    CHECK(empty.count("any"s) == 0);
    CHECK_THROWS_AS(empty.index(nullptr), std::invalid_argument);
}

TEST_CASE("a shareable list travels by its handle, however long it is",
          "[ipc][shm][py:_TestSharedMemory.test_shared_memory_ShareableList_pickling]") {
    ShareableList list = numbers(10), longer = numbers(400);
    ShareableList other = test::travel(list);
    CHECK(other.get(-1) == Item(9_i));
    other.set(4, "changed"s);
    CHECK(list.get(4) == Item("changed"s));
    list.set(3, "newvalue"s);
    CHECK(other.get(3) == Item("newvalue"s));
    detail::HeapBuffer small, large;
    OutputArchive a(small), b(large);
    a(list);
    b(longer);
    CHECK(small.size() == large.size());
}

TEST_CASE("a list whose block is gone cannot be opened by the name that travelled",
          "[ipc][shm]"
          "[py:_TestSharedMemory.test_shared_memory_ShareableList_pickling_dead_object]") {
    detail::HeapBuffer buffer;
    {
        ShareableList list = numbers(10);
        OutputArchive archive(buffer);
        archive(list);
    }
    ShareableList other{detail::Blank{}};
    CHECK_THROWS_AS(InputArchive(buffer.bytes())(other), std::system_error);
}

TEST_CASE("Python reads and changes our list", "[ipc][shm][python]") {
    ShareableList list = sample();
    CHECK(python(kPrelude + "s=m.ShareableList(name=\"" + list.memory().name() + "\")\n" +
                 "t.unregister(s.shm._name, \"shared_memory\")\n" +
                 "print(list(s), s.format)\ns[3]=\"text\"\ns[0]=b\"12345678\"\ns[6]=None\n" +
                 "s[5]=2.5\ns.shm.close()") ==
          "['howdy', b'HoWdY', -273.154, 100, None, True, 42] 8s8sdqxxxxxx?xxxxxxxx?q\n");
    CHECK(list.items() == std::vector<Item>{ByteString{"12345678"}, ByteString{"HoWdY"}, -273.154,
                                            "text"s, nullptr, 2.5, nullptr});
}

TEST_CASE("we read and change Python's list", "[ipc][shm][python]") {
    std::string name = "sidestep_list" + std::to_string(getpid());
    REQUIRE(python(kPrelude + "s=m.ShareableList([1, \"two\", b\"three\", 4.5, None, False, " +
                   "\"a longer text\"], name=\"" + name + "\")\n" +
                   "t.unregister(s.shm._name, \"shared_memory\")\ns.shm.close()")
                .empty());
    ShareableList list(open_only, name);
    CHECK(list.items() == std::vector<Item>{1_i, "two"s, ByteString{"three"}, 4.5, nullptr, false,
                                            "a longer text"s});
    list.set(0, "eight ch"s);
    list.set(6, -7_i);
    CHECK(python(kPrelude + "s=m.ShareableList(name=\"" + name + "\")\n" +
                 "t.unregister(s.shm._name, \"shared_memory\")\n" +
                 "print(s[0], s[6], s.format)\ns.shm.close()") ==
          "eight ch -7 8s8s8sdxxxxxx?xxxxxxxx?q\n");
    list.memory().unlink();
}

TEST_CASE("a block that holds no list is refused", "[ipc][shm]") {
    SharedMemory tiny(create_only, 8), wild(create_only, 4096);
    CHECK_THROWS_AS(ShareableList(open_only, tiny.name()), std::runtime_error);
    std::memset(wild.bytes().data(), 0xff, wild.size());
    CHECK_THROWS_AS(ShareableList(open_only, wild.name()), std::runtime_error);
    std::memset(wild.bytes().data(), 0x01, wild.size());
    CHECK_THROWS_AS(ShareableList(open_only, wild.name()), std::runtime_error);
    ShareableList list = numbers(3);
    std::int64_t far = 1 << 20;
    std::memcpy(list.memory().bytes().data() + 8 * 4, &far, 8);
    CHECK_THROWS_AS(list.get(0), std::runtime_error);
    CHECK_THROWS_AS(ShareableList(open_only, list.memory().name()), std::runtime_error);
}

}  // namespace shareable_list_test

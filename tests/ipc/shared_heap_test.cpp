#include <sidestep/shared_heap.hpp>

#include <boost/interprocess/containers/map.hpp>
#include <boost/interprocess/containers/string.hpp>
#include <boost/interprocess/containers/vector.hpp>
#include <mutex>
#include <random>

#include <catch2/catch.hpp>

#include "processes.hpp"

namespace shared_heap_test {

using namespace sidestep;
namespace bip = boost::interprocess;

namespace {

template <class T>
using Allocator = SharedHeap::Allocator<T>;
using Numbers = bip::vector<int, Allocator<int>>;
using String = bip::basic_string<char, std::char_traits<char>, Allocator<char>>;
using Words = bip::map<String, int, std::less<>, Allocator<std::pair<const String, int>>>;

}  // namespace

TEST_CASE("blocks of all sizes come and go, and never overlap",
          "[ipc][heap][py:_TestHeap.test_heap]") {
    unsigned seed = Catch::rngSeed() != 0 ? Catch::rngSeed() : 1;
    std::minstd_rand random(seed);
    SharedHeap heap(16 << 20);
    std::size_t before = heap.free_bytes();
    struct Block {
        unsigned char* data;
        std::size_t size;
        unsigned char mark;
    };
    std::vector<Block> blocks;
    auto intact = [](const Block& block) {
        return std::all_of(block.data, block.data + block.size,
                           [&](unsigned char byte) { return byte == block.mark; });
    };
    for (int i = 0; i < 5000; ++i) {
        std::size_t size = 1 + random() % (random() % 16 == 0 ? 50000u : 500u);
        auto mark = static_cast<unsigned char>(i);
        auto* data = static_cast<unsigned char*>(heap.allocate(size));
        std::memset(data, mark, size);
        blocks.push_back({data, size, mark});
        if (blocks.size() > 100) {
            std::size_t victim = random() % blocks.size();
            REQUIRE(intact(blocks[victim]));
            heap.deallocate(blocks[victim].data);
            blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(victim));
        }
    }
    CHECK(heap.sane());
    for (const Block& block : blocks) {
        CHECK(intact(block));
        heap.deallocate(block.data);
    }
    CHECK(heap.sane());
    CHECK(heap.free_bytes() == before);
    CHECK_THROWS_AS(heap.allocate(17 << 20), std::exception);
}

TEST_CASE("containers grow in one process and are read in another", "[ipc][heap]") {
    test::Channel channel;
    test::Child child([&] {
        auto heap = channel.receive<SharedHeap>();
        std::scoped_lock lock(heap.mutex());
        Numbers* numbers = heap.find<Numbers>("numbers");
        if (!numbers || numbers->size() != 1000 || numbers->back() != 999) return 1;
        numbers->push_back(1000);
        Words& words = heap.find_or_construct<Words>("words", heap.allocator<Words::value_type>());
        words.emplace(String("one, in letters that do not fit in place", heap.allocator<char>()),
                      1);
        return 0;
    });
    SharedHeap heap(1 << 20);
    Numbers& numbers = heap.find_or_construct<Numbers>("numbers", heap.allocator<int>());
    for (int i = 0; i < 1000; ++i) numbers.push_back(i);
    channel.send(heap);
    CHECK(child.wait() == 0);
    std::scoped_lock lock(heap.mutex());
    CHECK_FALSE(heap.mutex().owner_died());
    CHECK(numbers.back() == 1000);
    Words* words = heap.find<Words>("words");
    REQUIRE(words);
    CHECK(words->begin()->first == "one, in letters that do not fit in place");
    CHECK(heap.destroy<Words>("words"));
    CHECK_FALSE(heap.destroy<Words>("words"));
    CHECK(heap.sane());
}

TEST_CASE("a heap whose user was killed says so", "[ipc][heap]") {
    SharedHeap heap(1 << 20);
    test::Child child([&] {
        heap.mutex().lock();
        (void)heap.allocate(100);
        raise(SIGKILL);
    });
    child.wait();
    std::scoped_lock lock(heap.mutex());
    CHECK(heap.mutex().owner_died());
    CHECK(heap.sane());
}

}  // namespace shared_heap_test

#include <sidestep/shared_object.hpp>

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include "support.hpp"

#include "processes.hpp"

namespace shared_object_test {

using namespace sidestep;

namespace {

int loads = 0;
struct Counted {
    std::vector<double> values;
    void save(OutputArchive& archive) const { archive(values); }
    void load(InputArchive& archive) {
        ++loads;
        archive(values);
    }
};

// Stored values that this process has mapped.
int mappings() {
    auto text = sidestep::sys::read_file("/proc/self/maps").value_or("");
    int count = 0;
    for (std::size_t at = 0; (at = text.find("sidestep-shared", at)) != std::string::npos; ++at)
        ++count;
    return count;
}

}  // namespace

TEST_CASE("a shared value is stored once and loaded once", "[ipc][shared]") {
    test::Channel channel;
    loads = 0;
    test::Child child([&] {
        for (int i = 0; i < 3; ++i) {  // each handle is dropped before the next arrives
            auto shared = channel.receive<Shared<Counted>>();
            if (shared->values.size() != 1000 || shared->values[999] != 0.5) return 1;
        }
        return loads == 1 ? 0 : 2;
    });
    Shared<Counted> shared(Counted{std::vector<double>(1000, 0.5)});
    for (int i = 0; i < 3; ++i) channel.send(shared);
    CHECK(child.wait() == 0);
    Shared<Counted> home = test::travel(shared);
    CHECK(home == shared);
    CHECK(&*home == &*shared);
    CHECK(loads == 0);
}

namespace {

// One that this process reads until it may end; its forked children read it at once.
struct Slow {
    static inline std::atomic<int> reads = 0;
    static inline std::atomic<bool> may_end = false;
    static inline int reader = 0;
    int value = 0;
    void save(OutputArchive& archive) const { archive(value); }
    void load(InputArchive& archive) {
        archive(value);
        if (::getpid() != reader) return;
        ++reads;
        (void)test::eventually([] { return may_end.load(); });
    }
};

}  // namespace

TEST_CASE("a child that is forked while a shared value is read reads it itself", "[ipc][shared]") {
    test::Channel channel;
    test::SharedPage<std::atomic<bool>> is_over;
    test::Child creator([&] {
        const Shared<Slow> shared(Slow{7});
        for (int i = 0; i < 3; ++i) channel.send(shared);
        return test::eventually([&] { return is_over->load(); }) ? 0 : 1;
    });
    Slow::reads = 0;
    Slow::may_end = false;
    Slow::reader = ::getpid();
    std::vector<Shared<Slow>> read(2, Shared<Slow>(detail::Blank{}));
    std::vector<std::thread> readers;
    for (Shared<Slow>& each : read)
        readers.emplace_back([&] { each = channel.receive<Shared<Slow>>(); });
    CHECK(test::eventually([] { return Slow::reads > 0; }));
    test::SharedPage<std::atomic<int>> found;
    test::Child child([&] { *found = channel.receive<Shared<Slow>>()->value; });
    CHECK(test::eventually([&] { return *found == 7; }, std::chrono::seconds(10)));
    Slow::may_end = true;
    for (std::thread& reader : readers) reader.join();
    CHECK(Slow::reads == 1);
    CHECK(read[0]->value == 7);
    CHECK(&*read[0] == &*read[1]);
    read.clear();
    *is_over = true;
    CHECK(creator.wait() == 0);
    (void)test::travel(Shared<int>(1));  // at that this process lets go what others have dropped
}

TEST_CASE("a process lets a value go that its creator has dropped", "[ipc][shared]") {
    test::Channel channel;
    test::SharedPage<std::atomic<int>> stage;
    test::Child child([&] {
        (void)channel.receive<Shared<std::string>>();
        if (mappings() != 1) return 1;
        *stage = 1;
        (void)test::eventually([&] { return *stage == 2; });
        (void)channel.receive<Shared<std::string>>();
        return mappings() == 1 ? 0 : 2;
    });
    {
        Shared<std::string> first("first");
        channel.send(first);
        REQUIRE(test::eventually([&] { return *stage == 1; }));
    }
    Shared<std::string> second("second");
    *stage = 2;
    channel.send(second);
    CHECK(child.wait() == 0);
}

TEST_CASE("a process lets a value go whose creator was killed", "[ipc][shared][kill]") {
    test::Channel channel;
    test::SharedPage<std::atomic<int>> read;
    test::Child reader([&] {
        (void)channel.receive<Shared<std::string>>();
        (void)channel.receive<Shared<std::string>>();
        if (mappings() != 2) return 1;
        *read = 2;
        (void)channel.receive<Shared<std::string>>();
        return mappings() == 1 ? 0 : 2;
    });
    test::Child creator([&] {
        Shared<std::string> first("first"), second("second");
        channel.send(first);
        channel.send(second);
        for (;;) pause();
    });
    REQUIRE(test::eventually([&] { return *read == 2; }));
    creator.kill();
    Shared<std::string> third("third");
    channel.send(third);
    CHECK(reader.wait() == 0);
}

TEST_CASE("a shared value of another type is refused", "[ipc][shared]") {
    test::Channel channel;
    channel.send(Shared<int>(1));
    CHECK_THROWS_AS(channel.receive<Shared<long>>(), SerializationError);
    CHECK_THROWS_AS(Shared<int>().get(), std::logic_error);
}

}  // namespace shared_object_test

// Memory that is used up while something arrives, or goes: what has come is not mixed up.
#include <sidestep/connection.hpp>
#include <sidestep/listener.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/shared.hpp>

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include <catch2/catch.hpp>

#include "faults.hpp"
#include "memory/mapped_segment.hpp"
#include "scribble.hpp"
#include "support.hpp"
#include "sys/sys.hpp"

namespace receive_fault_test {

using namespace sidestep;
using test::Call;
using test::Fault;

// The first in its program: what is made once for a process is not there yet.
TEST_CASE("whatever allocation fails for good in a process's first shared object, it throws",
          "[ipc][fault][injected]") {
    auto with = GENERATE(0, 1, 2);
    constexpr int kAllOfThem = 40;
    for (int skip = 0; skip < kAllOfThem; ++skip) {
        CAPTURE(with, skip);
        test::Child child([&] {
            std::string text(100, 'x');
            Fault fault(Call::allocation, ENOMEM, skip, Fault::kEver);
            try {
                if (with == 0) Array<double> numbers(100'000);
                if (with == 1) Shared<std::string> shared(text);
                if (with == 2) Queue<int>().producer().close();
            } catch (const std::bad_alloc&) {
            }
        });
        CHECK(child.wait() == 0);
    }
}

TEST_CASE("whatever allocation fails while a message with descriptors is received, no byte is lost",
          "[ipc][connection][fault][injected]") {
    bool large = GENERATE(false, true);
    bool happened = true;
    int refused = 0;
    for (int skip = 0; happened; ++skip) {
        CAPTURE(large, skip);
        auto before = test::Resources::now();
        {
            auto ends = Pipe(), sent = Pipe();
            Connection& there = ends.second;
            std::string text(large ? 100'000 : 10, 't');
            test::Child sender([&] {
                ends.first.send(std::pair(DupFd::duplicate_of(sent.first.fd()), text));
                ends.first.send(7);
            });
            auto receive = [&] {
                auto [fd, came] = there.recv<std::pair<DupFd, std::string>>();
                return fd.fd() >= 0 && came == text;
            };
            bool again = false, right = false;
            try {
                Fault fault(Call::allocation, ENOMEM, skip);
                right = receive();
                happened = fault.happened();
            } catch (const std::bad_alloc&) {
                again = true;
            } catch (const SerializationError&) {
                ++refused;  // its descriptor was lost, and that is told
            }
            CHECK((right || happened));
            ends.first.close();
            // Either nothing was taken, or the message is gone; or nothing is received any more.
            try {
                if (again) right = receive();
                int number = there.recv<int>();
                CHECK(number == 7);
            } catch (const SerializationError& error) {  // the int, read as what is gone
                CHECK(again);
                CHECK_THAT(error.what(), Catch::Contains("another type"));
            } catch (const std::system_error& error) {
                CHECK(again);
                CHECK(error.code().value() == EBADF);
            }
            CHECK(sender.wait() == 0);
        }
        CHECK(test::nothing_left_since(before));
    }
    CHECK(refused > 0);
}

TEST_CASE("a producer of a damaged queue leaves without memory", "[ipc][queue][fault][injected]") {
    test::Child child([] {
        Queue<int> queue;
        auto producer = queue.producer();
        test::PartnersView partner(queue);
        std::span<std::byte> words = partner.regions()[0].subspan(sizeof(ObjectHeader), 1 << 10);
        std::memset(words.data(), 0xff, words.size());
        Fault fault(Call::allocation, ENOMEM, 0, Fault::kEver);
        producer.close();
    });
    CHECK(child.wait() == 0);
}

namespace {
using detail::QueueCore;
constexpr QueueOptions kLeased = {.lease = true};

// Items that take memory of their own.
void put_items(const QueueCore& queue, std::initializer_list<char> letters) {
    detail::RecordBuffer records;
    for (char letter : letters) records.add(std::string(5000, letter));
    (void)queue.put(records.bytes(), {});
}
// The first letters of those that get() hands over while an allocation fails, after `skip`; "!": it
// threw.
std::string get_with(const QueueCore& queue, int skip, bool& happened) {
    detail::RecordBuffer out;
    try {
        Fault fault(Call::allocation, ENOMEM, skip, Fault::kEver);
        (void)queue.get(2, out, detail::deadline_after(Timeout(test::kPatience)));
        happened = fault.happened();
    } catch (const std::bad_alloc&) {
        return "!";
    }
    std::string letters;
    for (detail::RecordReader reader(out.bytes()); !reader.done();)
        letters += reader.next<std::string>().front();
    return letters;
}
// How many are on loan to this process, which ends them.
int end_loans(const QueueCore& queue) {
    for (int count = 0;; ++count) try {
            queue.task_done();
        } catch (const std::logic_error&) {
            return count;
        }
}
}  // namespace

TEST_CASE("what is on loan was handed over, whatever allocation fails in get()",
          "[ipc][queue][lease][fault][injected]") {
    bool happened = true;
    for (int skip = 0; happened; ++skip) {
        CAPTURE(skip);
        QueueCore queue(QueueCore::Kind::joinable, kLeased);
        put_items(queue, {'a', 'b'});
        std::string got = get_with(queue, skip, happened);
        CHECK(std::string("ab").starts_with(got == "!" ? "" : got));
        CHECK(end_loans(queue) == static_cast<int>(got == "!" ? 0 : got.size()));
    }
}

TEST_CASE("what a dead process had on loan is nobody's until it was handed over",
          "[ipc][queue][lease][fault][injected]") {
    QueueCore queue(QueueCore::Kind::joinable, kLeased);
    put_items(queue, {'a'});
    test::Child dies([&] {
        detail::RecordBuffer out;
        return queue.get(1, out, {}) == 1 ? 0 : 1;
    });
    REQUIRE(dies.wait() == 0);
    bool happened = false;
    CHECK(get_with(queue, 0, happened) == "!");
    CHECK(end_loans(queue) == 0);
    CHECK(get_with(queue, 1000, happened) == "a");
    CHECK(end_loans(queue) == 1);
}

TEST_CASE("whatever allocation fails while a segment arrives, the next one can",
          "[ipc][fault][injected]") {
    bool happened = true;
    for (int skip = 0; happened; ++skip) {
        CAPTURE(skip);
        test::Child child([&] {
            ::alarm(60);  // or it would wait for itself for ever
            Segment segment = Segment::create("sidestep-test", 4096);
            bool right = false, failed = false;
            try {
                Fault fault(Call::allocation, ENOMEM, skip);
                right = MappedSegment::adopt(segment.fd().duplicate())->size() == 4096;
                failed = fault.happened();
            } catch (const std::bad_alloc&) {
                failed = true;
            }
            bool again = MappedSegment::adopt(segment.fd().duplicate())->size() == 4096;
            return !again ? 2 : failed ? 1 : right ? 0 : 3;
        });
        int code = child.wait();
        CHECK((code == 0 || code == 1));
        happened = code == 1;
    }
}

namespace {
int queues_fd = -1;
// What who shares a queue may do to its descriptor, between a look and what follows it.
void fill_and_drain() {
    std::uint64_t word = 0xfffffffffffffffe;
    sys::set_nonblocking(queues_fd, true);
    (void)!::read(queues_fd, &word, sizeof word);
    word = 0xfffffffffffffffe;
    (void)!::write(queues_fd, &word, sizeof word);
    sys::set_nonblocking(queues_fd, false);
}
void drain() {
    std::uint64_t word = 0;
    sys::set_nonblocking(queues_fd, true);
    (void)!::read(queues_fd, &word, sizeof word);
    sys::set_nonblocking(queues_fd, false);
}
}  // namespace

TEST_CASE("no call of a queue waits for what others did to its descriptor a moment ago",
          "[ipc][queue][fault]") {
    auto* meanwhile = GENERATE(&fill_and_drain, &drain);
    test::Child child([&] {
        ::alarm(20);
        Queue<int> queue;
        queues_fd = queue.fd();
        test::after_poll = meanwhile;
        for (int i = 0; i < 10; ++i) {
            queue.put(i);
            if (queue.get() != i) return 1;
        }
        queue.shut_down();
        return 0;
    });
    CHECK(child.wait() == 0);
}

TEST_CASE("an encrypted listener without memory does not greet a peer in plain text",
          "[ipc][listener][fault][injected]") {
    bool happened = true;
    int refused = 0;
    for (int skip = 0; happened; ++skip) {
        CAPTURE(skip);
        Listener listener({.authkey = "a key", .encrypted = true});
        Connection peer = Client(listener.address());
        peer.send_bytes("x");
        auto accept = [&] {
            try {
                (void)listener.accept_for(Timeout());
            } catch (const AuthenticationError&) {  // it speaks something else
            } catch (const std::bad_alloc&) {
                ++refused;
            }
        };
        {
            Fault fault(Call::allocation, ENOMEM, skip);
            accept();
            happened = fault.happened();
        }
        accept();
        std::string greeting;
        try {
            if (peer.poll()) greeting = peer.recv_bytes();
        } catch (const std::exception&) {  // no message, or its end
        }
        CHECK(greeting.empty());
    }
    CHECK(refused > 0);
}

}  // namespace receive_fault_test

// A process that is forked while its other threads are anywhere in the library: what the child
// finds locked or half done there would never be unlocked.
#include <stdexcept>
#include <thread>
#include <vector>

#include <catch2/catch.hpp>

#include <sidestep/remote_error.hpp>
#include <sidestep/shared_object.hpp>

#include "processes.hpp"
#include "sync/spin.hpp"

namespace fork_threaded_test {

#ifndef TEST_SANITIZED  // their allocators do not work in the child of a process with threads

namespace {

constexpr unsigned kHangs = 60;  // seconds: then the child is killed by its own alarm

// Calls `busy` again and again in another thread, forks again and again, and calls `child` there.
template <class Busy, class InChild>
void fork_beside(Busy busy, InChild child) {
    std::atomic<bool> stop{false};
    std::atomic<unsigned> calls{0};
    std::thread other([&] {
        for (; !stop; ++calls) busy();
    });
    bool good = test::eventually([&] { return calls > 0; });
    for (int i = 0; i < 20 && good; ++i) {
        test::Child forked([&] {
            ::alarm(kHangs);
            child();
        });
        good = forked.wait() == 0;
    }
    stop = true;
    other.join();
    CHECK(good);
}

}  // namespace

TEST_CASE("a child that was forked while the cost of a wake-up was measured can ask for it",
          "[ipc][fork_threaded]") {
    for (int i = 0; i < 5; ++i) {
        test::Child fresh([] {  // nothing was measured here
            std::atomic<bool> done{false};
            std::thread first([&] {
                (void)sidestep::wake_up_cost();
                done = true;
            });
            // Its measurement has a thread of its own.
            while (sidestep::sys::thread_count() < 3 && !done) std::this_thread::yield();
            test::Child forked([] {
                ::alarm(kHangs);
                return sidestep::wake_up_cost() > std::chrono::nanoseconds(0) ? 0 : 1;
            });
            int code = forked.wait();
            first.join();
            return code == 0 ? 0 : 1;
        });
        REQUIRE(fresh.wait() == 0);
    }
}

TEST_CASE("a child that was forked while exception types were looked up can look them up",
          "[ipc][fork_threaded]") {
    struct OwnError : std::runtime_error {
        using std::runtime_error::runtime_error;
    };
    sidestep::detail::ExceptionCodec codec = {
        [](const std::exception&, sidestep::OutputArchive&) {},
        [](sidestep::InputArchive&, sidestep::detail::RemoteText text) {
            return std::make_exception_ptr(OwnError(text.message));
        }};
    auto look_up = [&] { (void)sidestep::detail::add_exception_codec(typeid(OwnError), codec); };
    fork_beside(look_up, look_up);
}

TEST_CASE("a child that was forked while kept values were looked through can keep its own",
          "[ipc][fork_threaded]") {
    std::vector<sidestep::Shared<int>> kept;
    for (int i = 0; i < 64; ++i) {
        kept.emplace_back(i);
        (void)*test::travel(kept.back());
    }
    sidestep::detail::ObjectRef ref = sidestep::detail::store_value({}, 0, nullptr);
    fork_beside([&] { (void)sidestep::detail::dropper_of(ref); },  // all it does is to look through
                [] { sidestep::Shared<int> dropped(1); });
}

#endif

}  // namespace fork_threaded_test

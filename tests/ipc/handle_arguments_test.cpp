// Every handle is an argument of a Process, and an item of a message.
#include <mutex>

#include <sidestep/connection.hpp>
#include <sidestep/process.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/shareable_list.hpp>
#include <sidestep/shared.hpp>
#include <sidestep/shared_heap.hpp>
#include <sidestep/sync.hpp>

#include "process_support.hpp"

namespace handle_arguments_test {

namespace {

using namespace sidestep;

void use_locks(Lock lock, RLock rlock, Condition condition, Event event, Semaphore semaphore,
               BoundedSemaphore bounded, Barrier barrier) {
    std::scoped_lock all(lock, rlock, condition);
    semaphore.acquire();
    bounded.acquire();
    barrier.wait();
    event.set();
}

void use_channels(Queue<int> queue, JoinableQueue<int> joinable, Connection connection, DupFd fd) {
    queue.put(1);
    joinable.put(2);
    connection.send(3);
    Connection over(fd.detach());
    over.send(4);
}

void use_memory(Value<int> value, Array<int> array, RawValue<int> raw_value,
                RawArray<int> raw_array, SharedMemory memory, ShareableList list, SharedHeap heap,
                Shared<std::string> text) {
    value.value() = 1;
    array[0] = 2;
    raw_value.value() = 3;
    raw_array[0] = 4;
    memory.bytes()[0] = std::byte{5};
    list.set(0, *text);
    heap.find_or_construct<int>("six", 6);
}

// As it arrives at the other end of a connection.
template <class T>
T sent(const T& handle) {
    auto [here, there] = Pipe();
    here.send(handle);
    return there.recv<T>();
}

template <class F, class... Args>
void run(StartMethod method, F f, Args&&... args) {
    Process process({.start_method = method}, f, std::forward<Args>(args)...);
    process.start();
    process.join();
    CHECK(process.exitcode() == 0);
}

}  // namespace

TEST_CASE("locks of every kind are arguments of a process", "[ipc][travel][process]") {
    FOR_EACH_START_METHOD();
    Event event;
    run(method, use_locks, Lock(), RLock(), Condition(), event, Semaphore(1), BoundedSemaphore(1),
        Barrier(1));
    CHECK(event.is_set());
}

TEST_CASE("channels of every kind are arguments of a process", "[ipc][travel][process]") {
    FOR_EACH_START_METHOD();
    Queue<int> queue;
    JoinableQueue<int> joinable;
    auto [here, there] = Pipe();
    auto [reader, writer] = Pipe({.duplex = false});
    run(method, use_channels, queue, joinable, std::move(there), DupFd::duplicate_of(writer.fd()));
    CHECK(queue.get() == 1);
    CHECK(joinable.get() == 2);
    CHECK(here.recv<int>() == 3);
    CHECK(reader.recv<int>() == 4);
}

TEST_CASE("memory of every kind is an argument of a process", "[ipc][travel][process]") {
    FOR_EACH_START_METHOD();
    Value<int> value;
    Array<int> array(1);
    RawValue<int> raw_value;
    RawArray<int> raw_array(1);
    SharedMemory memory(create_only, 1);
    ShareableList list({"    "});
    SharedHeap heap(64 << 10);
    Shared<std::string> text("text");
    run(method, use_memory, value, array, raw_value, raw_array, memory, list, heap, text);
    CHECK(value.value() == 1);
    CHECK(array[0] == 2);
    CHECK(raw_value.value() == 3);
    CHECK(raw_array[0] == 4);
    CHECK(memory.bytes()[0] == std::byte{5});
    CHECK(list.get(0) == ShareableItem("text"));
    REQUIRE(heap.find<int>("six"));
    CHECK(*heap.find<int>("six") == 6);
}

TEST_CASE("every handle is the same one after it was received from a connection",
          "[ipc][travel][connection]") {
    auto check_one = [](const auto& handle) { CHECK(sent(handle) == handle); };
    auto check_same = [&](const auto&... handles) { (check_one(handles), ...); };
    check_same(Lock(), RLock(), Condition(), Event(), Semaphore(1), BoundedSemaphore(1), Barrier(1),
               Queue<int>(), JoinableQueue<int>(), Value<int>(), Array<int>(1), RawValue<int>(),
               RawArray<int>(1), SharedHeap(4096), Shared<int>(1));
    SharedMemory memory(create_only, 1);
    CHECK(sent(memory).name() == memory.name());
    CHECK(sent(ShareableList({1, 2})).get(1) == ShareableItem(2));
}

}  // namespace handle_arguments_test

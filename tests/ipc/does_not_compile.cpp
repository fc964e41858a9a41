// What must not compile as an item of a queue: as tests/core/does_not_compile/cases.cpp.
#include <sidestep/connection.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/remote_error.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/value.hpp>

struct Opaque {
    void* inside = nullptr;
};

using Call = sidestep::Bound<int (*)(int), int>;
template <class T>
struct Carrying : std::runtime_error {
    Carrying() : std::runtime_error("") {}
    T value;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(value);
    }
};
using CallError = Carrying<Call>;

void use() {
#if SIDESTEP_CASE == 0
    sidestep::Queue<sidestep::SharedMemory> by_name;
    sidestep::Queue<int> numbers;
#elif SIDESTEP_CASE == 1
    // EXPECT 1: a handle cannot be an item of a queue: it travels as a descriptor
    sidestep::Queue<sidestep::Lock> queue;
#elif SIDESTEP_CASE == 2
    // EXPECT 2: Send it over a Pipe(), or pass it as an argument
    sidestep::JoinableQueue<sidestep::Array<int> > queue;
#elif SIDESTEP_CASE == 3
    // EXPECT 3: an item of this type cannot be serialized: give it a cereal `serialize` member
    sidestep::Queue<Opaque> queue;
#elif SIDESTEP_CASE == 4
    // EXPECT 4: pointers cannot travel
    sidestep::Queue<int*> queue;
#elif SIDESTEP_CASE == 5
    // EXPECT 5: an item of a queue cannot carry function pointers
    sidestep::Queue<std::optional<Call> > queue;
#elif SIDESTEP_CASE == 6
    // EXPECT 6: a message cannot carry function pointers: whoever sent it could name any function
    sidestep::Pipe().first.send(std::vector<Call>{});
#elif SIDESTEP_CASE == 7
    // EXPECT 7: a message cannot carry function pointers: whoever sent it could name any function
    sidestep::Pipe().first.recv<std::pair<int, Call> >();
#elif SIDESTEP_CASE == 8
    // EXPECT 8: an exception cannot carry function pointers
    sidestep::register_exception<CallError>();
#endif
}

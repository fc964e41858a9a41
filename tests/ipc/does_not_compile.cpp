// What must not compile as an item of a queue: as tests/core/does_not_compile/cases.cpp.
#include <sidestep/lock.hpp>
#include <sidestep/queue.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/value.hpp>

struct Opaque {
    void* inside = nullptr;
};

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
#endif
}

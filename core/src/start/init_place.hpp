// From where init() was called first: a spawned child takes over at the same place, and finds there
// what is there by then.
#pragma once

#include <string>

namespace sidestep::inline v0 {

struct InitPlace {
    // By the constructor of a static object: those of other files may not exist yet.
    bool before_main = false;
    // A library that was loaded after main() had begun (dlopen): main() may not come to it when it
    // is started again. Empty: it is part of the program.
    std::string library = {};
};

// To be called by init() itself, when it is called first; it will return to this address.
void note_init_place(const void* return_address);
const InitPlace& init_place() noexcept;

}  // namespace sidestep

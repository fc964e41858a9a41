// The key of a server that is this process's own.
#pragma once

#include <random>
#include <string>

namespace sidestep::inline v0 {

// 32 random bytes.
inline std::string new_key() {
    std::random_device random;
    std::string key;
    for (int i = 0; i < 8; ++i) {
        unsigned word = random();
        key.append(reinterpret_cast<const char*>(&word), sizeof word);
    }
    return key;
}

}  // namespace sidestep

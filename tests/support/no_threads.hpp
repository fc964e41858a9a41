// A process that gets no more threads.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <system_error>
#include <thread>

#include <catch2/catch.hpp>

namespace test {

// While it lives, no thread can be made: it would have a stack that is larger than memory can be.
struct NoThreads {
    NoThreads() {
        ::pthread_getattr_default_np(&before);
        pthread_attr_t huge;
        ::pthread_getattr_default_np(&huge);
        ::pthread_attr_setstacksize(&huge, std::size_t(1) << 60);
        REQUIRE(::pthread_setattr_default_np(&huge) == 0);
        ::pthread_attr_destroy(&huge);
        REQUIRE_THROWS_AS(std::thread([] {}), std::system_error);
    }
    ~NoThreads() {
        ::pthread_setattr_default_np(&before);
        ::pthread_attr_destroy(&before);
    }
    NoThreads(const NoThreads&) = delete;
    NoThreads& operator=(const NoThreads&) = delete;
    pthread_attr_t before;
};

}  // namespace test

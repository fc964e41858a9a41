// An operator new that fails when the test wants it. A program that links failing_new.cpp has it,
// and says when; under a sanitizer, which has one of its own, there is no such program.
#pragma once

#include <cstddef>

namespace test {

// Defined by the test: whether this allocation, in this thread, fails. Called for each.
bool allocation_fails(std::size_t size) noexcept;

}  // namespace test

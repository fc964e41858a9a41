// Two real jobs, in pieces that can be done anywhere: by a task, a thread, or a loop of OpenMP.
#pragma once

#include <cstdint>

namespace bench {

// Monte Carlo: how many of kThrows random points of the unit square lie in the circle. Even pieces.
constexpr int kThrowers = 200;
std::uint64_t throw_darts(int seed);

// The Mandelbrot set: the iterations of one row of the picture. Pieces as uneven as they come.
constexpr int kRows = 400;
std::uint64_t mandelbrot_row(int row);

}  // namespace bench

#include "compute.hpp"

namespace bench {

std::uint64_t throw_darts(int seed) {
    constexpr int kThrows = 100'000;
    // xorshift64*: a generator of the standard library would be most of the work.
    std::uint64_t state = 0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(seed + 1);
    auto coordinate = [&state] {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        return static_cast<double>((state * 2685821657736338717u) >> 11) * 0x1p-53;
    };
    std::uint64_t inside = 0;
    for (int i = 0; i < kThrows; ++i) {
        double x = coordinate(), y = coordinate();
        inside += x * x + y * y < 1;
    }
    return inside;
}

std::uint64_t mandelbrot_row(int row) {
    constexpr int kColumns = 600, kMost = 1000;
    std::uint64_t iterations = 0;
    for (int column = 0; column < kColumns; ++column) {
        double re = -2.0 + 3.0 * column / kColumns, im = -1.0 + 2.0 * row / kRows;
        double x = 0, y = 0;
        int n = 0;
        for (; n < kMost && x * x + y * y < 4; ++n) {
            double next = x * x - y * y + re;
            y = 2 * x * y + im;
            x = next;
        }
        iterations += static_cast<std::uint64_t>(n);
    }
    return iterations;
}

}  // namespace bench

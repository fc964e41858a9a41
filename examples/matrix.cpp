// A product of large matrices in shared memory: tasks get handles, and no element is copied.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/shared.hpp>
namespace mp = sidestep;

struct Matrix {
    std::size_t size = 0;
    mp::RawArray<float> items;  // without a lock: each task writes rows of its own
    float* row(std::size_t i) const { return items.data() + i * size; }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(size, items);
    }
};

void multiply(Matrix a, Matrix b, Matrix product, std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i)
        for (std::size_t k = 0; k < a.size; ++k)
            for (std::size_t j = 0; j < a.size; ++j) product.row(i)[j] += a.row(i)[k] * b.row(k)[j];
}

int main() {
    mp::init();
    const std::size_t size = 256, rows = 32;
    auto make = [&](float fill) { return Matrix{size, mp::RawArray<float>(size * size, fill)}; };
    Matrix a = make(1), b = make(2), product = make(0);

    mp::Pool pool;
    std::vector<mp::Future<void>> parts;
    for (std::size_t begin = 0; begin < size; begin += rows)
        parts.push_back(pool.submit(multiply, a, b, product, begin, std::min(begin + rows, size)));
    for (auto& part : parts) part.get();
    std::printf("%.0f %.0f\n", product.row(0)[0], product.row(size - 1)[size - 1]);  // 512 512
}

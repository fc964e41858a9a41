// A tree reduction: each part is looked at where it is, and what came of two parts is merged in a
// worker, and so on upwards. No process sees more than two results at a time.
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <utility>
#include <vector>

#include <sidestep/pool.hpp>
namespace mp = sidestep;

struct Moments {  // of some numbers: how many, their mean, the sum of squares around it
    double count = 0, mean = 0, squares = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(count, mean, squares);
    }
};
// Chan, Golub, LeVeque: Updating Formulae (1979).
Moments merge(const Moments& a, const Moments& b) {
    const double count = a.count + b.count, apart = b.mean - a.mean;
    return {count, a.mean + apart * b.count / count,
            a.squares + b.squares + apart * apart * a.count * b.count / count};
}
Moments look_at(int part) {  // a file, say; here the numbers 1000 * part + (0 ... 999)
    Moments all;
    for (int i = 0; i < 1000; ++i) all = merge(all, {1, 1000.0 * part + i, 0});
    return all;
}
void print(const Moments& m) {
    std::printf("%.0f numbers, mean %.1f, deviation %.1f\n", m.count, m.mean,
                std::sqrt(m.squares / m.count));
}

int main() {
    mp::init();
    mp::Pool pool;
    std::vector<int> parts;
    for (int part = 0; part < 100; ++part) parts.push_back(part);
    print(pool.map_reduce(look_at, merge, parts));

    // The same by hand: a task whose arguments are futures begins when both are there.
    std::vector<mp::Future<Moments>> level;
    for (int part : parts) level.push_back(pool.submit(look_at, part));
    while (level.size() > 1) {
        std::vector<mp::Future<Moments>> above;
        for (std::size_t i = 0; i + 1 < level.size(); i += 2)
            above.push_back(pool.submit(merge, level[i], level[i + 1]));
        if (level.size() % 2 == 1) above.push_back(level.back());
        level = std::move(above);
    }
    print(level[0].get());
}

// A model that takes long to load: each worker loads it once, and keeps it between its tasks.
#include <cctype>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include <sidestep/pool.hpp>
namespace mp = sidestep;

struct Model {  // it is not serialized: it never leaves its worker
    Model() {
        for (char c : std::string("etaoinshr")) weights[c] = 1;
        std::fprintf(stderr, "worker %d has loaded the model\n", mp::this_worker::index());
    }
    double score(const std::string& text) const {
        double sum = 0;
        for (char c : text) {
            auto found =
                weights.find(static_cast<char>(std::tolower(static_cast<unsigned char>(c))));
            if (found != weights.end()) sum += found->second;
        }
        return text.empty() ? 0 : sum / static_cast<double>(text.size());
    }
    std::map<char, double> weights;
};
void load() { mp::this_worker::local<Model>(); }
double score(const std::string& text) { return mp::this_worker::local<Model>().score(text); }

int main() {
    mp::init();
    // Without the initializer, a worker's first task would load it.
    mp::Pool pool({.processes = 2, .initializer = load});
    std::vector<std::string> texts{"The rest is silence", "Brrr", "Words, words, words"};
    for (double value : pool.map(score, texts)) std::printf("%.2f\n", value);  // 0.74 0.75 0.47
}

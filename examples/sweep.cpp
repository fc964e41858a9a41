// A sweep over parameters into a CSV file. Started again after a kill, it goes on where it was.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <sidestep/pool.hpp>
namespace fs = std::filesystem;
namespace mp = sidestep;

struct Point {
    int size = 0;
    double rate = 0;
    std::string name() const { return std::to_string(size) + "," + std::to_string(rate); }
    template <class Archive>
    void serialize(Archive& archive) {
        archive(size, rate);
    }
};
double simulate(const Point& point) {
    double x = 0.5;
    for (int i = 0; i < point.size; ++i) x = point.rate * x * (1 - x);
    return x;
}

// The points that the file has. A line that a kill has cut short is removed.
std::set<std::string> points_in(const fs::path& path) {
    std::set<std::string> names;
    std::uintmax_t whole = 0;
    std::ifstream file(path);
    for (std::string line; std::getline(file, line) && !file.eof(); whole += line.size() + 1)
        names.insert(line.substr(0, line.rfind(',')));
    if (fs::exists(path)) fs::resize_file(path, whole);
    return names;
}

int main(int argc, char** argv) {
    mp::init();
    const fs::path path = argc > 1 ? argv[1] : "sweep.csv";
    const std::set<std::string> done = points_in(path);
    std::vector<Point> points;
    for (int size : {1000, 2000, 4000, 8000})
        for (double rate : {0.9, 1.5, 2.9})
            if (Point point{size, rate}; !done.contains(point.name())) points.push_back(point);

    mp::Pool pool;
    std::ofstream file(path, std::ios::app);
    if (!file) return std::perror(path.c_str()), 1;
    std::size_t written = 0;
    for (auto& item : pool.imap_unordered(simulate, points, {.chunksize = 1}).outcomes())
        if (item) {  // one that failed is not written: the next start tries it again
            file << points[item.index()].name() << "," << item.value() << std::endl;
            ++written;
        }
    std::printf("%zu points were there, %zu are new\n", done.size(), written);
    return file && written == points.size() ? 0 : 1;
}

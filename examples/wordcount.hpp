// The parts of the wordcount example that have nothing to do with processes.
#pragma once

#include <cereal/types/string.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/vector.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace wordcount {

struct Arguments {
    unsigned workers = 0;  // 0: one for each core
    std::vector<std::string> paths;
};
// Handles --help and bad usage by itself (exit).
Arguments parse(int argc, char** argv);

// The headers below the paths, in batches of a few megabytes.
std::vector<std::vector<std::string>> find_headers(const std::vector<std::string>& paths);

// What is in a batch of files.
struct Counts {
    std::vector<std::pair<std::string, std::uint64_t>> identifiers;
    std::vector<std::string> failed;  // "path: reason"
    std::uint64_t files = 0, bytes = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(identifiers, failed, files, bytes);
    }
};
Counts count_files(const std::vector<std::string>& paths);

struct TextHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
        return std::hash<std::string_view>()(text);
    }
};
using Table = std::unordered_map<std::string, std::uint64_t, TextHash, std::equal_to<>>;

// What is in all of them.
struct Total {
    Table identifiers;
    std::vector<std::string> failed;
    std::uint64_t files = 0, bytes = 0;
    void add(const Counts& counts);
};

// On a terminal a line that is rewritten; elsewhere a line every two seconds.
class Progress {
  public:
    explicit Progress(const std::vector<std::vector<std::string>>& batches);
    void show(std::uint64_t files_done);
    void finish();

  private:
    std::uint64_t files_ = 0;
    bool terminal_;
    bool shown_ = false;
    std::chrono::steady_clock::time_point last_;
};

void report(const Total& total, unsigned workers, double seconds);

}  // namespace wordcount

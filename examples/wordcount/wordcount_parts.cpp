#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "wordcount.hpp"

namespace wordcount {
namespace {

namespace fs = std::filesystem;

constexpr const char* kUsage =
    "usage: wordcount [--workers N] [PATH...]\n"
    "Counts the identifiers in every C and C++ header below the paths (default: /usr/include)\n"
    "and prints the twenty most frequent.\n"
    "  --workers N   worker processes, 1 to 1024 (default: one for each core)\n"
    "  --help        this text\n"
    "Exit status: 0; 1 if a file could not be read; 2 for bad usage.\n";

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "wordcount: %s\nTry 'wordcount --help'.\n", message.c_str());
    std::exit(2);
}

unsigned parse_workers(const char* text) {
    char* end = nullptr;
    long value = text ? std::strtol(text, &end, 10) : 0;
    if (!text || end == text || *end || value < 1 || value > 1024)
        fail("--workers takes a number from 1 to 1024");
    return static_cast<unsigned>(value);
}

// By its name; C++'s own headers have no ending.
bool is_header(const fs::path& path) {
    static const std::array<std::string_view, 9> endings = {".h", ".hh",  ".hpp", ".hxx", ".h++",
                                                            ".H", ".tcc", ".ipp", ".inl"};
    std::string ending = path.extension().string();
    if (ending.empty()) return path.native().find("/c++/") != std::string::npos;
    return std::find(endings.begin(), endings.end(), ending) != endings.end();
}

constexpr std::array<bool, 256> kWordCharacter = [] {
    std::array<bool, 256> table{};
    for (unsigned c = 0; c < 256; ++c)
        table[c] =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
    return table;
}();

bool is_word(char c) { return kWordCharacter[static_cast<unsigned char>(c)]; }

struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view word) const {
        return std::hash<std::string_view>()(word);
    }
};
using Table = std::unordered_map<std::string, std::uint64_t, Hash, std::equal_to<>>;

std::uint64_t& count_of(Table& table, std::string_view word) {
    auto found = table.find(word);
    if (found == table.end()) found = table.emplace(word, 0).first;
    return found->second;
}
constexpr std::size_t kShards = 64;

// Runs of letters, digits and '_' that do not begin with a digit.
void count_identifiers(std::string_view text, Table& table) {
    for (std::size_t i = 0; i < text.size();) {
        if (!is_word(text[i])) {
            ++i;
            continue;
        }
        std::size_t begin = i;
        while (i < text.size() && is_word(text[i])) ++i;
        if (text[begin] >= '0' && text[begin] <= '9') continue;
        ++count_of(table, text.substr(begin, i - begin));
    }
}

// Appends the whole file; false with errno set if it cannot be read.
bool read_file(const std::string& path, std::string& text) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    if (!file) return false;
    char chunk[1 << 16];
    while (std::size_t n = std::fread(chunk, 1, sizeof chunk, file)) text.append(chunk, n);
    bool good = std::ferror(file) == 0;
    int error = errno;
    std::fclose(file);
    errno = error;
    return good;
}

void keep_most_frequent(Ranking& ranking) {
    auto shown = static_cast<std::ptrdiff_t>(std::min<std::size_t>(ranking.size(), 20));
    std::partial_sort(ranking.begin(), ranking.begin() + shown, ranking.end(),
                      [](const auto& a, const auto& b) {
                          return a.first != b.first ? a.first > b.first : a.second < b.second;
                      });
    ranking.resize(static_cast<std::size_t>(shown));
}

}  // namespace

Arguments parse(int argc, char** argv) {
    Arguments arguments;
    for (int i = 1; i < argc; ++i) {
        std::string_view word = argv[i];
        if (word == "--help") {
            std::fputs(kUsage, stdout);
            std::exit(0);
        } else if (word == "--workers") {
            arguments.workers = parse_workers(i + 1 < argc ? argv[++i] : nullptr);
        } else if (word.starts_with("-") && word.size() > 1) {
            fail("unknown option '" + std::string(word) + "'");
        } else {
            arguments.paths.emplace_back(word);
        }
    }
    if (arguments.paths.empty()) arguments.paths.emplace_back("/usr/include");
    for (const std::string& path : arguments.paths)
        if (std::error_code error; !fs::exists(path, error))
            fail(path + ": " + (error ? error.message() : std::strerror(ENOENT)));
    return arguments;
}

std::vector<std::vector<std::string>> find_headers(const std::vector<std::string>& paths,
                                                   unsigned workers) {
    std::vector<std::string> files;
    auto options = fs::directory_options::skip_permission_denied;
    for (const std::string& path : paths) {
        std::error_code error;
        if (!fs::is_directory(path, error)) {
            files.push_back(path);  // a file that was named is read, whatever it is
            continue;
        }
        for (auto it = fs::recursive_directory_iterator(path, options, error);
             !error && it != fs::recursive_directory_iterator(); it.increment(error))
            if (is_header(it->path()) && !it->is_directory(error))
                files.push_back(it->path().native());
    }
    std::size_t batch = std::clamp<std::size_t>(files.size() / (16 * workers), 1, 1000);
    std::vector<std::vector<std::string>> batches;
    for (std::size_t i = 0; i < files.size(); ++i) {
        if (i % batch == 0) batches.emplace_back();
        batches.back().push_back(std::move(files[i]));
    }
    return batches;
}

Counts count_files(const std::vector<std::string>& paths) {
    Counts counts;
    counts.shards.resize(kShards);
    std::string text;
    Table table;
    for (const std::string& path : paths) {
        text.clear();
        if (read_file(path, text)) {
            count_identifiers(text, table);
            counts.bytes += text.size();
            ++counts.files;
        } else {
            counts.failed.push_back(path + ": " + std::strerror(errno));
        }
    }
    for (const auto& [word, count] : table) {
        auto number = static_cast<std::uint32_t>(count);
        Shard& shard = counts.shards[Hash()(word) % kShards];
        shard.append(word).push_back('\n');
        shard.append(reinterpret_cast<const char*>(&number), sizeof number);
    }
    return counts;
}

Merged merge_shards(const std::vector<Shard>& shards) {
    Table table;
    for (std::string_view rest : shards) {
        while (!rest.empty()) {
            std::string_view word = rest.substr(0, rest.find('\n'));
            std::uint32_t number;
            std::memcpy(&number, rest.data() + word.size() + 1, sizeof number);
            rest.remove_prefix(word.size() + 1 + sizeof number);
            count_of(table, word) += number;
        }
    }
    Merged merged;
    merged.identifiers = table.size();
    for (const auto& [word, count] : table) merged.top.emplace_back(count, word);
    keep_most_frequent(merged.top);
    return merged;
}

void Total::add(Counts counts) {
    shards.resize(counts.shards.size());
    for (std::size_t i = 0; i < shards.size(); ++i)
        shards[i].push_back(std::move(counts.shards[i]));
    for (const std::string& line : counts.failed)
        std::fprintf(stderr, "wordcount: %s\n", line.c_str());
    failed += counts.failed.size();
    files += counts.files;
    bytes += counts.bytes;
}

void report(const Total& total, const std::vector<Merged>& merged, unsigned workers,
            double seconds) {
    Ranking top;
    unsigned long long identifiers = 0;
    for (const Merged& part : merged) {
        top.insert(top.end(), part.top.begin(), part.top.end());
        identifiers += part.identifiers;
    }
    keep_most_frequent(top);
    for (const auto& [count, word] : top)
        std::printf("%10llu %s\n", static_cast<unsigned long long>(count), word.c_str());
    std::printf("%llu files (%llu not readable), %llu bytes, %llu identifiers\n",
                static_cast<unsigned long long>(total.files),
                static_cast<unsigned long long>(total.failed),
                static_cast<unsigned long long>(total.bytes), identifiers);
    std::printf("workers: %u, %.2f seconds, %.1f MB/s\n", workers, seconds,
                static_cast<double>(total.bytes) / 1e6 / seconds);
}

}  // namespace wordcount

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string_view>

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
        std::string_view word = text.substr(begin, i - begin);
        auto found = table.find(word);
        if (found != table.end())
            ++found->second;
        else
            table.emplace(word, 1);
    }
}

// The whole file; false with errno set if it cannot be read.
bool read_file(const std::string& path, std::string& text) {
    text.clear();
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

std::vector<std::vector<std::string>> find_headers(const std::vector<std::string>& paths) {
    constexpr std::uint64_t kBatchBytes = 4 << 20;
    std::vector<std::vector<std::string>> batches;
    std::uint64_t bytes = kBatchBytes;
    auto add = [&](const fs::directory_entry& entry) {
        if (bytes >= kBatchBytes) {
            batches.emplace_back();
            bytes = 0;
        }
        std::error_code error;
        std::uint64_t size = entry.file_size(error);
        bytes += error ? 0 : size;
        batches.back().push_back(entry.path().native());
    };
    auto options = fs::directory_options::skip_permission_denied;
    for (const std::string& path : paths) {
        std::error_code error;
        if (!fs::is_directory(path, error)) {
            add(fs::directory_entry(path, error));  // a file that was named is read, whatever it is
            continue;
        }
        for (auto it = fs::recursive_directory_iterator(path, options, error);
             !error && it != fs::recursive_directory_iterator(); it.increment(error))
            if (is_header(it->path()) && !it->is_directory(error)) add(*it);
    }
    return batches;
}

Counts count_files(const std::vector<std::string>& paths) {
    Counts counts;
    Table table;
    std::string text;
    for (const std::string& path : paths) {
        if (!read_file(path, text)) {
            counts.failed.push_back(path + ": " + std::strerror(errno));
            continue;
        }
        ++counts.files;
        counts.bytes += text.size();
        count_identifiers(text, table);
    }
    counts.identifiers.assign(table.begin(), table.end());
    return counts;
}

void Total::add(const Counts& counts) {
    for (const auto& [word, count] : counts.identifiers) identifiers[word] += count;
    for (const std::string& line : counts.failed) {
        std::fprintf(stderr, "wordcount: %s\n", line.c_str());
        failed.push_back(line);
    }
    files += counts.files;
    bytes += counts.bytes;
}

Progress::Progress(const std::vector<std::vector<std::string>>& batches)
    : terminal_(isatty(STDERR_FILENO) != 0), last_(std::chrono::steady_clock::now()) {
    for (const auto& batch : batches) files_ += batch.size();
}

void Progress::show(std::uint64_t files_done) {
    auto now = std::chrono::steady_clock::now();
    if (now - last_ < (terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(2)))
        return;
    last_ = now;
    shown_ = true;
    std::fprintf(stderr, "%s%llu of %llu files%s", terminal_ ? "\r" : "",
                 static_cast<unsigned long long>(files_done),
                 static_cast<unsigned long long>(files_), terminal_ ? "" : "\n");
}

void Progress::finish() {
    if (shown_ && terminal_) std::fputs("\r\033[K", stderr);
}

void report(const Total& total, unsigned workers, double seconds) {
    std::vector<std::pair<std::string, std::uint64_t>> words(total.identifiers.begin(),
                                                             total.identifiers.end());
    std::size_t shown = std::min<std::size_t>(words.size(), 20);
    std::partial_sort(words.begin(), words.begin() + static_cast<std::ptrdiff_t>(shown),
                      words.end(), [](const auto& a, const auto& b) {
                          return a.second != b.second ? a.second > b.second : a.first < b.first;
                      });
    for (std::size_t i = 0; i < shown; ++i)
        std::printf("%10llu %s\n", static_cast<unsigned long long>(words[i].second),
                    words[i].first.c_str());
    double megabytes = static_cast<double>(total.bytes) / 1e6;
    std::printf("%llu files (%zu not readable), %llu bytes, %zu identifiers\n",
                static_cast<unsigned long long>(total.files), total.failed.size(),
                static_cast<unsigned long long>(total.bytes), words.size());
    std::printf("workers: %u, %.2f seconds, %.1f MB/s\n", workers, seconds, megabytes / seconds);
}

}  // namespace wordcount

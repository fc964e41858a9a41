// The parts of the wordcount example that have nothing to do with processes.
#pragma once

#include <cereal/types/string.hpp>
#include <cereal/types/utility.hpp>
#include <cereal/types/vector.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace wordcount {

struct Arguments {
    std::optional<unsigned> workers;  // nothing: one for each core
    std::vector<std::string> paths;
};
// Handles --help and bad usage by itself (exit).
Arguments parse(int argc, char** argv);

// The headers below the paths, in batches: a few for each worker, so that they finish together.
std::vector<std::vector<std::string>> find_headers(const std::vector<std::string>& paths,
                                                   unsigned workers);

// Identifiers and how often each was seen, as bytes: "identifier\n" and a 32-bit count, again and
// again. A string travels in one piece; a hundred thousand small ones would not.
using Shard = std::string;

// What is in a batch of files. An identifier's hash says in which of the shards it is.
struct Counts {
    std::vector<Shard> shards;
    std::vector<std::string> failed;  // "path: reason"
    std::uint64_t files = 0, bytes = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(shards, failed, files, bytes);
    }
};
Counts count_files(const std::vector<std::string>& paths);

using Ranking = std::vector<std::pair<std::uint64_t, std::string>>;  // most frequent first

// What the shards of one number, from all batches, amount to.
struct Merged {
    std::uint64_t identifiers = 0;
    Ranking top;  // twenty at most

    template <class Archive>
    void serialize(Archive& archive) {
        archive(identifiers, top);
    }
};
Merged merge_shards(const std::vector<Shard>& shards);

// What is in all of them. Which identifiers is left to merge_shards: see `shards`.
struct Total {
    std::vector<std::vector<Shard>> shards;  // by number
    std::uint64_t files = 0, bytes = 0, failed = 0;
    void add(Counts counts);
};

void report(const Total& total, const std::vector<Merged>& merged, unsigned workers,
            double seconds);

}  // namespace wordcount

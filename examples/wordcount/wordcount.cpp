// Counts the identifiers in C and C++ headers, on every core: a map over a process pool, then a
// second one that merges what the first has found.
#include <chrono>
#include <utility>

#include <sidestep/pool.hpp>
#include <sidestep/progress.hpp>

#include "wordcount.hpp"
namespace mp = sidestep;

int main(int argc, char** argv) {
    mp::init();  // first statement: workers take over here
    wordcount::Arguments arguments = wordcount::parse(argc, argv);
    auto begin = std::chrono::steady_clock::now();
    mp::Pool pool({.processes = arguments.workers});
    auto batches = wordcount::find_headers(arguments.paths, pool.processes());

    wordcount::Total total;
    auto counts = pool.imap_unordered(wordcount::count_files, batches, {.chunksize = 1});
    for (wordcount::Counts& found :
         mp::progress(counts, {.total = batches.size(), .label = "batches of files"}))
        total.add(std::move(found));
    auto merged = pool.map(wordcount::merge_shards, total.shards, {.chunksize = 1});
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    wordcount::report(total, merged, pool.processes(), seconds.count());
    return total.failed == 0 ? 0 : 1;
}

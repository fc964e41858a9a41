// Counts the identifiers in C and C++ headers, on every core: a map over a process pool, merged as
// the results come.
#include <sidestep/pool.hpp>

#include "wordcount.hpp"
namespace mp = sidestep;

int main(int argc, char** argv) {
    mp::init();  // first statement: workers take over here
    wordcount::Arguments arguments = wordcount::parse(argc, argv);
    auto begin = std::chrono::steady_clock::now();
    std::vector<std::vector<std::string>> batches = wordcount::find_headers(arguments.paths);

    wordcount::Total total;
    mp::Pool pool({.processes = arguments.workers});
    wordcount::Progress progress(batches);
    for (const wordcount::Counts& counts :
         pool.imap_unordered(wordcount::count_files, batches, {.chunksize = 1})) {
        total.add(counts);
        progress.show(total.files);
    }
    progress.finish();
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    wordcount::report(total, pool.processes(), seconds.count());
    return total.failed.empty() ? 0 : 1;
}

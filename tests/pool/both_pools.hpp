// Each kind of pool, for a TEMPLATE_TEST_CASE: one contract, run on all of them.
#pragma once

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

namespace test {

struct Processes {
    sidestep::Pool pool{{.processes = 2}};
};
struct Forked {
    sidestep::Pool pool{{.processes = 2, .start_method = sidestep::StartMethod::fork}};
};
struct FromServer {
    sidestep::Pool pool{{.processes = 2, .start_method = sidestep::StartMethod::forkserver}};
};
struct Inline {
    sidestep::Pool pool{{.processes = 0}};
};
struct Threads {
    sidestep::ThreadPool pool{{.threads = 2}};
};

}  // namespace test

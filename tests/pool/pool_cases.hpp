// The table of what pools promise: docs/guide/cases.md, which tools/cases writes from these macros,
// is its page. A row has the part of the page that it is in, the promise, and the tags of its test.
// It is run on Pools (by each start method, and without workers) and on Threads, but where it says
// what happens there instead: that is the name of a test, too (or an error of a program that does
// not compile, as does_not_compile.cpp has it).
//
// POOL_CASE and WORKERS_CASE are followed by the body of a test of TestType, one of both_pools.hpp:
// its member `pool` is the pool. Those of processes, or threads, alone are plain test cases.
#pragma once

#include <catch2/catch.hpp>

#define POOL_CASE(part, promise, tags) \
    TEMPLATE_TEST_CASE(promise, "[pool][cases]" tags, Pools, Threads)
#define WORKERS_CASE(part, promise, tags, without_workers) \
    TEMPLATE_TEST_CASE(promise, "[pool][cases]" tags, Processes, Threads)
#define PROCESSES_CASE(part, promise, tags, without_workers, in_threads) \
    TEST_CASE(promise, "[pool][cases]" tags)
#define THREADS_CASE(part, promise, tags, in_processes) TEST_CASE(promise, "[pool][cases]" tags)
// As WORKERS_CASE, of types that have a `pool` with options of its own.
#define CASE_ON(part, promise, tags, without_workers, ...) \
    TEMPLATE_TEST_CASE(promise, "[pool][cases]" tags, __VA_ARGS__)

// What must not compile as a pool's task: as tests/core/does_not_compile/cases.cpp.
#include <memory>
#include <vector>

#include <sidestep/pool.hpp>
#include <sidestep/thread_pool.hpp>

struct NoDefault {
    explicit NoDefault(int n) : number(n) {}
    int number;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(number);
    }
};
NoDefault make(int n) { return NoDefault(n); }
int open(std::unique_ptr<int> box) { return *box; }

void use(sidestep::Pool& pool, sidestep::ThreadPool& threads, std::vector<int>& numbers,
         std::vector<std::unique_ptr<int>>& boxes) {
#if SIDESTEP_CASE == 0
    threads.submit(make, 1).get();
    threads.map(open, std::move(boxes));
    (void)pool, (void)numbers;
#elif SIDESTEP_CASE == 1
    // EXPECT 1: the result's type needs a default constructor, so that it can be read back
    pool.submit(make, 1);
#elif SIDESTEP_CASE == 2
    // EXPECT 2: the result's type needs a default constructor, so that it can be read back
    pool.map(make, numbers);
#elif SIDESTEP_CASE == 3
    // EXPECT 3: these items cannot be copied: move the container of them into the map or stream
    threads.map(open, boxes);
#elif SIDESTEP_CASE == 4
    // EXPECT 4: a result cannot carry function pointers: whoever wrote it could name any function
    pool.map([](int n) { return sidestep::bind(&open, std::make_unique<int>(n)); }, numbers);
#endif
}

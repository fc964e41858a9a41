// What must not compile as a task, one case at a time: SIDESTEP_CASE selects it. Case 0 compiles.
// The line "EXPECT n: text" says what the compiler must print for case n.
#include <functional>
#include <memory>
#include <string>

#include <sidestep/process.hpp>
#include <sidestep/task.hpp>

struct Opaque {
    void* inside = nullptr;
};
struct NoDefault {
    explicit NoDefault(int n) : number(n) {}
    int number;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(number);
    }
};

inline int twice(int n) { return 2 * n; }

// As Pool::submit does.
template <class F, class... Args>
void submit(F&&, Args&&...) {
    using namespace sidestep::detail;
    TaskCheck<std::decay_t<F>, Stored<Args>...>::check();
}

void use(int n) {
#if SIDESTEP_CASE == 0
    submit([](int a, const std::string& b) { return b + std::to_string(a); }, n, "text");
    sidestep::Process([](int, const std::string&) {}, n, "text");
#elif SIDESTEP_CASE == 1
    // EXPECT 1: A lambda with captures cannot: (1) pass what it captures as arguments, (2) use
    submit([n](int a) { return a + n; }, 1);
#elif SIDESTEP_CASE == 2
    // EXPECT 2: A lambda with captures cannot
    submit([&n](int a) { return a + n; }, 1);
#elif SIDESTEP_CASE == 3
    // EXPECT 3: a type that is sent cannot be serialized: give it a cereal `serialize` member
    submit([](const Opaque&) {}, Opaque());
#elif SIDESTEP_CASE == 4
    // EXPECT 4: pointers cannot travel
    submit([](int* a) { return *a; }, &n);
#elif SIDESTEP_CASE == 5
    // EXPECT 5: they arrive as temporaries (parameters by value, const& or &&
    submit([](int& a) { ++a; }, n);
#elif SIDESTEP_CASE == 6
    // EXPECT 6: the callable cannot be called with these arguments
    submit([](int a) { return a; }, std::string("text"));
#elif SIDESTEP_CASE == 7
    // EXPECT 7: a type that is sent cannot be serialized: give it a cereal `serialize` member
    submit([](int) { return Opaque(); }, n);
#elif SIDESTEP_CASE == 8
    // EXPECT 8: an argument's type needs a default constructor, so that it can be read back
    submit([](const NoDefault& a) { return a.number; }, NoDefault(n));
#elif SIDESTEP_CASE == 9
    // EXPECT 9: bind() takes a function pointer, a captureless lambda or a functor with a
    (void)sidestep::bind([n](int a) { return a + n; }, 1);
#elif SIDESTEP_CASE == 10
    // EXPECT 10: a std::function cannot travel: nobody knows what it holds
    submit(std::function<int(int)>([](int a) { return a; }), n);
#elif SIDESTEP_CASE == 11
    // EXPECT 11: A lambda with captures cannot: (1) pass what it captures as arguments
    sidestep::Process([n] { (void)n; });
#elif SIDESTEP_CASE == 12
    // EXPECT 12: a type that is sent cannot be serialized: give it a cereal `serialize` member
    sidestep::Process([](const Opaque&) {}, Opaque());
#elif SIDESTEP_CASE == 13
    // EXPECT 13: the callable cannot be called with these arguments
    sidestep::Process(
        {.name = "child"}, [](int) {}, std::string("text"));
#elif SIDESTEP_CASE == 14
    // EXPECT 14: a result cannot carry function pointers: whoever wrote it could name any function
    submit([](int) { return std::vector{sidestep::bind(&twice, 1)}; }, n);
#elif SIDESTEP_CASE == 15
    // EXPECT 15: bind() takes a function pointer, a captureless lambda or a functor with a
    sidestep::Process(sidestep::bind([&n] { ++n; }));
#elif SIDESTEP_CASE == 16
    // EXPECT 16: a pool, a future or a process stays in the process that made it
    sidestep::Process([](std::vector<sidestep::Process>) {}, std::vector<sidestep::Process>());
#elif SIDESTEP_CASE == 17
    // EXPECT 17: this one can only be moved: std::move() it into the call
    auto box = std::make_unique<int>(n);
    sidestep::Process([](std::unique_ptr<int>) {}, box);
#endif
}

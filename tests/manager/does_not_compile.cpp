// What must not compile as a call of an object: as tests/core/does_not_compile/cases.cpp.
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <sidestep/actor.hpp>
#include <sidestep/manager.hpp>

struct Board {
    int points = 0;
    int add(const std::string& name, int more) { return points += more + int(name.size()); }
    int set(std::vector<int> all) { return points = int(all.size()); }
    void wait(std::chrono::seconds) {}
    int own(std::unique_ptr<int> value) { return points = *value; }
    int get() const { return points; }
};
struct Lamp {
    int light() const { return 1; }
};

int calls(const sidestep::Proxy<Board>& board, const sidestep::Actor<Board>& actor) {
#if SIDESTEP_CASE == 1
    // EXPECT 1: the method cannot be called with these arguments
    return board.call<&Board::add>();
#elif SIDESTEP_CASE == 2
    // EXPECT 2: the method cannot be called with these arguments
    return actor.call<&Board::add>(std::pair("Ada", 1));
#elif SIDESTEP_CASE == 3
    // EXPECT 3: the method cannot be called with these arguments
    return board.submit<&Board::set>(5).get();
#elif SIDESTEP_CASE == 4
    // EXPECT 4: the method cannot be called with these arguments
    board.call<&Board::wait>(5);
#elif SIDESTEP_CASE == 5
    // EXPECT 5: the method cannot be called with these arguments
    return actor.call<&Board::own>(new int(3));
#elif SIDESTEP_CASE == 6
    // EXPECT 6: the method cannot be called with these arguments
    return actor.read<&Board::get>(1);
#elif SIDESTEP_CASE == 7
    // EXPECT 7: this is no method of the object's type, nor of a base of it
    return board.call<&Lamp::light>();
#elif SIDESTEP_CASE == 8
    // EXPECT 8: this is no method of the object's type, nor of a base of it
    sidestep::ManagerServer server({.authkey = "secret"});
    server.expose<&Lamp::light>("lamp", std::make_shared<Board>());
#elif SIDESTEP_CASE == 9
    // EXPECT 9: A lambda with captures cannot: (1) pass what it captures as arguments, (2) use
    const int more = 3;
    return actor.call([&more](Board& its) { return its.points + more; });
#elif SIDESTEP_CASE == 10
    // EXPECT 10: the callable takes the object by reference, and then these arguments
    return board.call([](Lamp& its) { return its.light(); });
#else
    using namespace std::chrono_literals;
    board.call<&Board::wait>(5s);
    return board.call<&Board::add>("Ada", 1) + actor.call<&Board::set>(std::vector{1, 2}) +
           actor.read<&Board::get>() + board.call<&Board::own>(std::make_unique<int>(3));
#endif
}

// A program whose first statement is init(): says when it gets beyond.
#include <cstdio>

#include <sidestep/init.hpp>

int main() {
    sidestep::init();
    std::printf("main\n");
    return sidestep::initialized() ? 0 : 2;
}

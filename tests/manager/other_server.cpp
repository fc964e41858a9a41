// A ManagerServer that another compiler has made than that of the tests: writes its port to stdout,
// and serves until its stdin ends.
#include <cstdio>
#include <memory>

#include <sidestep/manager.hpp>

#include "other_shared.hpp"

int main() {
    sidestep::init();
    sidestep::ManagerServer server({.address = sidestep::TcpAddress{}, .authkey = "secret"});
    using other::Shared;
    server.expose<static_cast<void (Shared::*)(int)>(&Shared::add), &Shared::sum, &Shared::pair,
                  &Shared::fail>("shared", std::make_shared<Shared>());
    server.expose<sidestep::Queue<int>>("queue");
    server.object<sidestep::Queue<int>>("queue").put(1);
    server.start();
    std::printf("%d\n", int(std::get<sidestep::TcpAddress>(server.address()).port));
    std::fflush(stdout);
    while (std::getchar() != EOF) {
    }
}

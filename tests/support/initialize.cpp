#include <signal.h>

#include <sidestep/init.hpp>

#include "support.hpp"

namespace test {

// Tests tell what becomes of these signals: not what a `nohup`, or a shell's `&`, has left ignored.
void initialize() {
    for (int signal : {SIGHUP, SIGINT, SIGQUIT}) ::signal(signal, SIG_DFL);
    sidestep::init();
}

}  // namespace test

#include <sidestep/exit_status.hpp>

#include <csignal>

#include <catch2/catch.hpp>

namespace exit_status_test {

using sidestep::ExitStatus;

TEST_CASE("an exit status tells exit code, signal and lost apart", "[core][exit_status]") {
    CHECK(ExitStatus().running());
    CHECK(ExitStatus::from_exit_code(0).success());
    CHECK(ExitStatus::from_exit_code(3).code() == 3);
    CHECK(ExitStatus::from_exit_code(3).returncode() == 3);
    CHECK(ExitStatus::from_signal(SIGSEGV).signal() == SIGSEGV);
    CHECK(ExitStatus::from_signal(SIGSEGV).returncode() == -SIGSEGV);
    CHECK_FALSE(ExitStatus::from_signal(SIGSEGV).exited());
    CHECK(ExitStatus::lost_status().lost());
    CHECK_FALSE(ExitStatus::lost_status().success());
}

TEST_CASE("an exit status describes itself", "[core][exit_status]") {
    CHECK(ExitStatus::from_exit_code(3).describe() == "exited with code 3");
    CHECK(ExitStatus::from_signal(SIGKILL).describe() == "died of signal 9 (SIGKILL)");
    CHECK(ExitStatus::from_signal(SIGABRT, true).describe() ==
          "died of signal 6 (SIGABRT, core dumped)");
    CHECK(sidestep::signal_name(200) == "signal 200");
}

}  // namespace exit_status_test

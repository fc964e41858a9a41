// Another program's output, line by line while it runs; its errors kept apart; a limit that holds.
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

#include <sidestep/subprocess.hpp>
namespace sp = sidestep::subprocess;
using namespace std::chrono_literals;

int main() {
    std::string errors;
    auto show = [](std::string_view line) {
        std::printf("> %.*s\n", static_cast<int>(line.size()), line.data());
    };
    auto keep = [&](std::string_view line) { errors += std::string(line) + "\n"; };

    const char* script = "for i in 1 2 3; do echo step $i; done; echo careful >&2; exit 3";
    sp::CompletedProcess build =
        sp::run({"sh", "-c", script}, {.timeout = 60s, .on_stdout = show, .on_stderr = keep});
    std::printf("exit status %d, errors: %s", build.returncode, errors.c_str());

    try {  // what the shell has started is ended with it
        sp::run("sleep 1000 & echo waiting; wait",
                {.timeout = 200ms, .on_stdout = show, .shell = true});
    } catch (const sp::TimeoutExpired&) {
        std::puts("it took too long");
    }
}

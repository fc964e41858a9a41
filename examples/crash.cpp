// A C library that crashes on some input, and hangs on other: each input is lost alone.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <sidestep/pool.hpp>
namespace mp = sidestep;
using namespace std::chrono_literals;

extern "C" int legacy_parse(const char* text) {  // stands for what you cannot repair
    const char* colon = std::strchr(text, ':');
    if (!colon) std::abort();  // its assert()
    while (colon[1] == '?') std::this_thread::sleep_for(1ms);
    return std::atoi(colon + 1);
}
int parse(const std::string& text) { return legacy_parse(text.c_str()); }

int main() {
    mp::init();
    mp::Pool pool({.processes = 2});
    std::vector<std::string> inputs{"a:1", "b", "c:3", "d:?", "e:5"};
    for (auto& item : pool.imap(parse, inputs, {.task = {.timeout = 500ms}}).outcomes()) {
        const char* input = inputs[item.index()].c_str();
        try {
            std::printf("%s: %d\n", input, item.value());
        } catch (const mp::WorkerLost& e) {
            std::printf("%s: it crashed (signal %d)\n", input, e.exit_status().signal());
        } catch (const mp::TaskTimeout&) {
            std::printf("%s: it took too long\n", input);
        }
    }
}

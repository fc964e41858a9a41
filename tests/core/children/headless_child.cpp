// A process whose main thread has ended, while another one goes on until it is killed. Prints its
// pid when that is so.
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace {

bool main_thread_has_ended() {
    FILE* stat = std::fopen("/proc/self/stat", "re");
    char line[512] = {};
    if (stat) {
        (void)!std::fgets(line, sizeof line, stat);
        std::fclose(stat);
    }
    return std::strstr(line, ") Z ") != nullptr;
}

void* go_on(void*) {
    while (!main_thread_has_ended()) sched_yield();
    std::printf("%d\n", getpid());
    std::fflush(stdout);
    for (;;) pause();
}

}  // namespace

int main() {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, go_on, nullptr) != 0) return 1;
    pthread_exit(nullptr);
}

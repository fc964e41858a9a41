#include "pool_support.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>

namespace test {

using sidestep::StartMethod;

std::vector<StartMethod> methods() {
    static const std::vector<StartMethod> all{StartMethod::fork, StartMethod::spawn,
                                              StartMethod::forkserver};
    static const bool in_turn = std::getenv("TEST_METHODS_IN_TURN") != nullptr;
    static std::size_t turn = 0;
    if (in_turn) return {all[turn++ % all.size()]};
    return all;
}

std::string name_of(StartMethod method) { return std::string(to_string(method)); }

StartMethod method_named(const std::string& name) {
    for (StartMethod m : {StartMethod::spawn, StartMethod::fork, StartMethod::fork_threaded,
                          StartMethod::forkserver})
        if (name_of(m) == name) return m;
    throw std::invalid_argument("no start method " + name);
}

SharedWords::SharedWords(std::size_t count)
    : bytes_(count * sizeof(Word)), fd_(memfd_create("test-words", MFD_CLOEXEC)) {
    if (fd_ < 0 || ftruncate(fd_, static_cast<off_t>(bytes_)) < 0)
        throw std::runtime_error("memfd_create");
    words_ = static_cast<Word*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
    path_ = "/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(fd_);
}

SharedWords::~SharedWords() {
    munmap(words_, bytes_);
    close(fd_);
}

SharedWords::Word* SharedWords::attach(const std::string& path) {
    // By inode: a path may name another file once its number was used again.
    static std::map<ino_t, Word*> known;
    int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    struct stat status = {};
    if (fd < 0 || fstat(fd, &status) < 0) throw std::runtime_error("cannot open " + path);
    Word*& words = known[status.st_ino];
    if (!words) {
        auto size = static_cast<std::size_t>(status.st_size);
        words = static_cast<Word*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    }
    close(fd);
    return words;
}

int add(int a, int b) { return a + b; }
long square(long x) { return x * x; }
int own_pid() { return getpid(); }

std::uint64_t bump(const std::string& path, std::size_t index) {
    return SharedWords::attach(path)[index].fetch_add(1);
}

std::uint64_t wait_at(const std::string& path, std::size_t tell, std::size_t gate) {
    SharedWords::Word* words = SharedWords::attach(path);
    words[tell] = static_cast<std::uint64_t>(getpid());
    return await(words[gate]);
}

int die(int signal) {
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;  // a sanitizer may have a handler of its own
    sigaction(signal, &action, nullptr);
    rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    raise(signal);
    return 0;
}

std::uint64_t await(SharedWords::Word& word) {
    if (!eventually([&] { return word.load() != 0; })) throw std::runtime_error("await: too long");
    return word.load();
}

AddressSpaceLimit::AddressSpaceLimit(std::size_t bytes) {
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit limit = {};
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + bytes;
    if (setrlimit(RLIMIT_AS, &limit) < 0) throw std::runtime_error("setrlimit");
}
AddressSpaceLimit::~AddressSpaceLimit() {
    rlimit limit = {};
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_AS, &limit);
}

char process_state(pid_t pid) {
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::string text;
    std::getline(file, text);
    std::size_t end = text.rfind(')');
    return end == std::string::npos || end + 2 >= text.size() ? '\0' : text[end + 2];
}

bool process_exists(pid_t pid) {
    char state = process_state(pid);
    return state != '\0' && state != 'Z' && state != 'X';
}

std::vector<pid_t> children_of(pid_t pid) {
    std::string id = std::to_string(pid);
    std::ifstream file("/proc/" + id + "/task/" + id + "/children");
    std::vector<pid_t> children;
    for (pid_t child; file >> child;) children.push_back(child);
    return children;
}

bool ProgramResult::exited_with(int code) const {
    return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

Program::Program(const std::vector<std::string>& arguments) {
    char self[4096] = {};
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) throw std::runtime_error("readlink");
    std::string path(self);
    path.replace(path.rfind('/') + 1, std::string::npos, "pool_program");
    std::vector<char*> argv{path.data()};
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) throw std::runtime_error("pipe2");
    pid_ = fork();
    if (pid_ == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        execv(path.c_str(), argv.data());
        _exit(127);
    }
    close(ends[1]);
    out_ = ends[0];
}

Program::~Program() {
    if (pid_ > 0) {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    if (out_ >= 0) close(out_);
}

constexpr int kSilence = 240'000;  // ms that a program may say nothing

std::string Program::read_line() {
    std::string line;
    for (char c; line.size() < 65536;) {
        pollfd entry = {out_, POLLIN, 0};
        if (poll(&entry, 1, kSilence) <= 0 || read(out_, &c, 1) != 1 || c == '\n') break;
        line += c;
    }
    return line;
}

ProgramResult Program::finish() {
    ProgramResult result;
    char buffer[4096];
    for (;;) {  // the deadline turns a hang into a failure with the output so far
        pollfd entry = {out_, POLLIN, 0};
        if (poll(&entry, 1, kSilence) <= 0) {
            result.output += "\n[nothing more was said]";
            kill(pid_, SIGKILL);
            break;
        }
        ssize_t n = read(out_, buffer, sizeof buffer);
        if (n <= 0) break;
        result.output.append(buffer, static_cast<std::size_t>(n));
    }
    waitpid(pid_, &result.status, 0);
    pid_ = -1;
    return result;
}

ProgramResult run_program(const std::vector<std::string>& arguments) {
    return Program(arguments).finish();
}

}  // namespace test

// Helpers of the pool's tests: the start methods, words shared with the workers, a helper program.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include <sidestep/pool.hpp>

#include "support.hpp"

namespace test {

// What every contract test runs on, as a generator's input: GENERATE(from_range(methods())). With
// TEST_METHODS_IN_TURN set, one method a call, the next one each time.
std::vector<sidestep::StartMethod> methods();
std::string name_of(sidestep::StartMethod method);
sidestep::StartMethod method_named(const std::string& name);

// Atomic words that this process and its workers share. Workers attach by path, so that it works
// under every start method; the words are zero at first.
class SharedWords {
  public:
    using Word = std::atomic<std::uint64_t>;

    explicit SharedWords(std::size_t count);
    ~SharedWords();
    SharedWords(const SharedWords&) = delete;
    SharedWords& operator=(const SharedWords&) = delete;

    Word& operator[](std::size_t index) { return words_[index]; }
    const std::string& path() const { return path_; }

    // In a worker: the words behind a path. Mapped once for each path, for good.
    static Word* attach(const std::string& path);

  private:
    std::size_t bytes_;
    int fd_;
    Word* words_;
    std::string path_;
};

// first, first + 1, ... last - 1. For tests that run with clang++ 14 too, which cannot compile
// std::views::iota of libstdc++ 12; those of views proper are in stream_test.cpp.
template <class T>
std::vector<T> numbers(T first, T last) {
    std::vector<T> all;
    for (; first != last; ++first) all.push_back(first);
    return all;
}

inline std::vector<int> numbers(int count) { return numbers(0, count); }

// Tasks that many tests use. All are plain functions.
int add(int a, int b);
long square(long x);
int own_pid();
// Adds one to a word; returns what it was.
std::uint64_t bump(const std::string& path, std::size_t index);
// Stores the process id in word `tell`, then waits until word `gate` is not zero, and returns it.
std::uint64_t wait_at(const std::string& path, std::size_t tell, std::size_t gate);
// Ends the process by a signal, after having stored its pid in word `tell`.
int die(int signal);

// Waits until `word` is not zero, and returns it.
std::uint64_t await(SharedWords::Word& word);

// While it lives, this process gets so much more address space, and not a byte more.
class AddressSpaceLimit {
  public:
    explicit AddressSpaceLimit(std::size_t bytes);
    ~AddressSpaceLimit();
    AddressSpaceLimit(const AddressSpaceLimit&) = delete;
    AddressSpaceLimit& operator=(const AddressSpaceLimit&) = delete;
};

bool process_exists(pid_t pid);  // and is no zombie
char process_state(pid_t pid);   // of /proc/<pid>/stat; 0: there is no such process
std::vector<pid_t> children_of(pid_t pid);

// What a helper program (pool_program.cpp) did.
struct ProgramResult {
    int status = 0;      // of waitpid
    std::string output;  // stdout and stderr
    bool exited_with(int code) const;
};
// A helper program that runs, its output in a pipe.
class Program {
  public:
    explicit Program(const std::vector<std::string>& arguments);
    ~Program();  // kills it if it still runs
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    pid_t pid() const { return pid_; }
    std::string read_line();
    ProgramResult finish();  // reads the rest and waits

  private:
    pid_t pid_ = -1;
    int out_ = -1;
};
ProgramResult run_program(const std::vector<std::string>& arguments);

}  // namespace test

// How to start the program that this process runs once more.
//
// Mostly that is /proc/self/exe: the file that runs, even if its name was given to another one
// since. It is not the program's own where something else runs it: the dynamic loader
// (`ld.so ./program`), which is told again what to load, as it was; or a tool that executes the
// program by itself (valgrind, an emulator), beside which the program is started by its path.
#pragma once

#include <string>
#include <vector>

namespace sidestep::inline v0 {

struct OwnProgram {
    std::string executable;
    std::vector<std::string> arguments;  // argv[0], and what a loader wants before the program
};

// Mostly asks the kernel once in the life of a process. Throws std::runtime_error, which names
// set_executable(), if the program's file cannot be found.
OwnProgram own_program();

// What `executable` is, from what the kernel says of a process. Empty paths: it does not say.
struct ProgramTraces {
    std::string executed;   // the file that the kernel executed
    std::string claimed;    // what /proc/self/exe is said to be: a tool may have a say in it
    std::string program;    // the file that the main program was loaded from
    std::string exec_name;  // AT_EXECFN: what the program was called as
    std::vector<std::string> command_line;
};
OwnProgram own_program_from(const ProgramTraces& traces);

}  // namespace sidestep

// What becomes of a process and a pool's worker in this program, by each start method.
#pragma once

// Prints a line for each: "process spawn: 2", the number of entries of a global map of another file
// that the child sees; or the error. First of all, whether the boot variable is set. `names` are
// start methods.
int show_start_methods(int count, char** names);

// Of that map; there are two.
int count_entries();

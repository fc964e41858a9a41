// Variables of the environment that are this process's alone: its children are started without
// them.
//
// A launcher tells each process of a job by variables who it is in the job. A child that had them
// too, and used the same library, would be taken for its parent.
//
// Threads: set once, by init(), before there are other threads.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sidestep::inline v0 {

// From now on children that run this program's code get no variable whose name begins so.
void hide_variables(std::span<const std::string_view> prefixes);

// The names of those that this process has now.
std::vector<std::string> hidden_variables();

}  // namespace sidestep

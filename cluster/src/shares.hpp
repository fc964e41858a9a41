// How many workers each host of a job gets.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lanes/host_lane.hpp"
#include "messages.hpp"

namespace sidestep::inline v0::detail {

// By rank. A rank has a worker for each CPU that it may use; ranks of one host that may use the
// same CPUs share them. Each has one at least. The first keeps one CPU for the program itself, if
// it has more. `processes`: so many in all, given out in the order of the ranks; where that is more
// than there are CPUs, each gets more in turn.
std::vector<Hosts::Share> shares_of(std::span<const Hello> ranks,
                                    std::optional<unsigned> processes);

// A sentence about ranks that are alone on their host and may use a part of its CPUs only:
// launchers bind each rank to one CPU unless they are told otherwise. Empty: there is none.
std::string bound_too_tightly(std::span<const Hello> ranks);

}  // namespace sidestep::detail

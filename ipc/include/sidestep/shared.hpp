// Memory that processes share: values and arrays without a name, and blocks with one.
#pragma once

#include <sidestep/shareable_list.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/value.hpp>

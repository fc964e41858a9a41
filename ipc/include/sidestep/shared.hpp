// Memory that processes share: values, arrays and whole objects without a name, and blocks with
// one. Containers in shared memory are in <sidestep/shared_heap.hpp>, which includes
// Boost.Interprocess.
#pragma once

#include <sidestep/shareable_list.hpp>
#include <sidestep/shared_memory.hpp>
#include <sidestep/shared_object.hpp>
#include <sidestep/value.hpp>

// Synchronisation between processes: Lock, RLock, Semaphore, BoundedSemaphore, Condition, Event,
// Barrier. Each has its own header, which is its manual.
#pragma once

#include <sidestep/barrier.hpp>
#include <sidestep/condition.hpp>
#include <sidestep/event.hpp>
#include <sidestep/lock.hpp>
#include <sidestep/semaphore.hpp>

// How a child process that runs this program's own code comes to be.
#pragma once

namespace sidestep {

// | method        | the child                             | needs                               |
// |---------------|---------------------------------------|-------------------------------------|
// | spawn         | this program, started afresh (exec)   | init() first in main()              |
// | fork          | a copy of this process as it is now   | that it has no other threads        |
// | fork_threaded | the same, although there are threads  | that they hold no lock a task needs |
// | forkserver    | a copy of a helper that was spawned   | init() first in main()              |
//
// spawn is the default: nothing is shared by accident. fork starts faster and sees the memory of
// the parent; a lock that another thread holds at that moment stays locked in the child for ever,
// and that is why fork refuses when there are other threads. A pool forks one template when it is
// made and its workers, replacements too, from that: all of them see the moment of the pool's
// creation.
enum class StartMethod { spawn, fork, fork_threaded, forkserver };

}  // namespace sidestep

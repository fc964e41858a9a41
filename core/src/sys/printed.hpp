// What this process has printed and not written yet: it waits in the buffers of the FILEs of stdio,
// and of the standard streams of C++.
#pragma once

namespace sidestep::inline v0::sys {

// Writes it, but for FILEs that other threads hold: those may wait for something (a thread in
// fgets(3) holds its FILE). Does not throw; what cannot be written waits on. Costs some nanoseconds
// if nothing waits. True: something waited elsewhere than in stdout.
bool write_printed() noexcept;

// The same at the end of this process, as exit(3) does: FILEs that other threads hold, too.
void write_printed_at_exit() noexcept;

// In a copy of this process: what waits in FILEs is dropped, since the original will write it.
void drop_printed() noexcept;

}  // namespace sidestep::sys

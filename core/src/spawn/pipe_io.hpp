// Bytes into and out of a child's pipes, for who may wait.
#pragma once

#include <cstddef>
#include <string_view>

namespace sidestep::inline v0::subprocess {

// Reads once; 0: the end. Waits where the descriptor is non-blocking. Throws std::system_error.
std::size_t read_pipe(int fd, char* to, std::size_t size);
// Writes all of it, without SIGPIPE; throws std::system_error (EPIPE too). Waits where the
// descriptor is non-blocking.
void write_pipe(int fd, std::string_view bytes);
// What the pipe takes now: no more, and no error. The child is gone, or does not read.
void write_pipe_now(int fd, std::string_view bytes) noexcept;

}  // namespace sidestep::subprocess

// Output::lines with a prefix that names the task: how a line is known to be that of a task.
//
// What a worker's tasks print comes out of one pipe, and is read when the worker may be several
// tasks further. So before each task its worker writes a mark into the pipe, which its reader takes
// out again: 16 bytes that nobody can guess (but the first), the task's number and its name. A mark
// is one write(2) of less than PIPE_BUF bytes: whoever else writes there comes before it or behind
// it. The name is behind the task's arguments, with which it goes wherever the task does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <sidestep/archive.hpp>
#include <sidestep/pool_options.hpp>

#include "sys/file_identity.hpp"

namespace sidestep::inline v0::detail {

// How each mark of one worker begins: a byte that is in no text, and random ones.
using LineNonce = std::array<char, 16>;
LineNonce make_line_nonce();

// Lines say of which task they are: what PoolOptions::line_prefix says of "{task}" and "{number}".
bool prefix_names_tasks(std::string_view prefix);
inline bool lines_name_tasks(const PoolOptions& options) {
    return options.output == Output::lines && prefix_names_tasks(options.line_prefix);
}
// The prefix of such a task.
std::string task_prefix(std::string_view prefix, std::uint64_t number, std::string_view name);

// Writes it behind a task's arguments; of a long one the begin.
void append_task_name(OutputBuffer& arguments, std::string name);
// Cuts it off again. Throws SerializationError if there is none.
std::string_view take_task_name(std::span<const std::byte>& arguments);

// The first mark in what was read. If there is none, or not all of it has been read: size is 0, and
// `begin` is where one may begin, or all of the text.
struct LineMark {
    std::size_t begin = 0;
    std::size_t size = 0;
    std::uint64_t number = 0;
    std::string_view name = {};  // in the text

    static LineMark find(std::string_view text, const LineNonce& nonce);
};

// The worker's side.
class LineMarker {
  public:
    // Of these two pipes, whose reader knows the number. They are the caller's.
    LineMarker(const LineNonce& nonce, int out, int err);
    // What comes out of the pipes from here on is that task's. Waits while a pipe is full.
    void begin_task(std::uint64_t number, std::string_view name) const noexcept;

  private:
    struct Pipe {
        Pipe(int its_own, int its_standard)
            : own(its_own), standard(its_standard), identity(its_own) {}

        int own, standard;  // one of them is the pipe, unless a task has closed both
        sys::FileIdentity identity;
    };

    const LineNonce nonce_;
    const std::array<Pipe, 2> pipes_;
};

}  // namespace sidestep::detail

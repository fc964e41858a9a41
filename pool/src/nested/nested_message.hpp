// What a worker and the process of its pool say to each other about nested tasks, over a pair of
// sockets of their own: blobs that begin with a head.
//
//   worker                     the pool's process
//   submit                  ->                      a task: code, arguments, descriptors, options
//                           <-  accepted, refused   why
//                           <-  known               it was to come after one that is done, as the
//                                                   worker has been told
//   wait                    ->                      its task waits, for that one (0: for any)
//                           <-  run                 meanwhile it is to run this
//   ran                     ->                      what came of it; the task waits still
//   go_on                   ->                      it waits no more, and will run nothing
//   cancel                  ->
//                           <-  answer              the number is 1: it is cancelled
//   forget                  ->                      nobody there wants the result any more
//                           <-  done                a result, or what befell the task
//
// A worker asks one thing at a time: an answer (accepted, refused, known, answer) is that of its
// last question. Numbers of tasks are the worker's; that of one that it is to run is the pool's.
// Waits have numbers, too: what was to be run in one that has ended meanwhile was not, as both
// sides know.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <span>

#include <sidestep/archive.hpp>
#include <sidestep/task.hpp>
#include <sidestep/task_options.hpp>

#include "travel/blob.hpp"

namespace sidestep::inline v0::detail {

struct NestedHead {
    static constexpr std::uint64_t kMagic = 0x64657473656e7373;
    enum class Word : std::uint32_t {
        submit = 1,
        accepted,
        refused,
        known,
        wait,
        run,
        go_on,
        ran,
        cancel,
        answer,
        forget,
        done
    };
    enum class Ending : std::uint32_t { value, error, failure };

    std::uint64_t magic = kMagic;
    Word word = Word::submit;
    Ending ending = Ending::value;  // done, ran, refused: what the bytes are
    std::uint64_t number = 0;
    std::uint64_t ticket = 0;     // run, ran
    std::uint64_t wait = 0;       // wait, ran, run, go_on: its number
    std::uint64_t can_serve = 0;  // wait, ran: 1: it can be woken to run something
    TaskId id;                    // submit, run
    std::uint64_t fds = 0;        //   as this: so many descriptors come along
    std::uint64_t options = 0;    // submit: so many bytes of them are behind the arguments
    std::uint64_t after = 0;      // submit: not 0: the result of this one is to come behind them
};

// The message begins with that; what it is about is written behind it.
void begin_message(BlobBuffer& buffer, const NestedHead& head);
// The descriptors of a message, each by itself, as the numbers in the bytes have it.
BlobFds message_fds(std::span<const int> fds);
// Throws SerializationError if it is no such message.
NestedHead head_of(const Blob& message);
std::span<const std::byte> body_of(const Blob& message);
// The two parts of the body of a `submit`. Throw SerializationError, and the latter
// std::invalid_argument.
std::span<const std::byte> arguments_of(const Blob& message);
std::optional<TaskOptions> options_of(const Blob& message);  // none: the pool's

// What befell a task, by type where it is one of pool_errors.hpp.
void save_failure(OutputArchive& archive, const std::exception_ptr& failure);
// What these bytes say; what cannot be read is said instead.
std::exception_ptr load_ending(NestedHead::Ending ending, std::span<const std::byte> bytes);
bool is_cancellation(const std::exception_ptr& error) noexcept;

}  // namespace sidestep::detail

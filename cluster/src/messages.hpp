// What the first process of a job and the agents on its hosts say to each other.
//
// A frame's head begins with what it is, then come the fields of the message below, then, for some,
// bytes in the frame's body: arguments, results. What arrives is read by an archive, which checks
// each length; what makes no sense is a SerializationError.
//
//   agent                         first process
//   hello                    ->                        who it is; once
//                            <-   refused              why; the agent ends
//                            <-   open                 a pool begins, with its options
//                            <-   submit               a task; body: its arguments
//   reply                    ->                        body: its result, or what it threw
//   failure                  ->                        it did not come to its end; body: of a chunk
//   cancelled                ->
//                            <-   cancel
//                            <-   close, terminate
//   broken                   ->                        its pool is broken
//   closed                   ->                        its pool has ended
//                            <-   ping                 each second; who is silent for how long
//                                                      is lost, to the other
//   pong                     ->
//   resigned                 ->                        why its host can do nothing more; the agent
//                                                      stays, so that the job may go on
//                            <-   goodbye              the agent ends
//   farewell                 ->                        and has heard so; its last word
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <cereal/types/optional.hpp>
#include <cereal/types/string.hpp>
#include <cereal/types/vector.hpp>

#include <sidestep/archive.hpp>
#include <sidestep/detail/sent_options.hpp>
#include <sidestep/pool_options.hpp>
#include <sidestep/task.hpp>

#include "lanes/host_lane.hpp"
#include "transport.hpp"
#include "wired_details.hpp"
#include "worker/worker_settings.hpp"

namespace sidestep::inline v0::detail {

enum class MessageKind : std::uint8_t {
    hello = 1,
    refused,
    open,
    submit,
    reply,
    failure,
    cancelled,
    cancel,
    close,
    terminate,
    broken,
    closed,
    ping,
    pong,
    goodbye,
    farewell,
    resigned
};

// Its first two fields are the same in all versions.
struct Hello {
    static constexpr std::uint32_t kProtocol = 1;
    std::uint32_t protocol = kProtocol;
    std::string host;
    std::string program;     // its build, as text
    std::uint32_t cpus = 0;  // that it may use, quotas and all
    std::uint32_t cpus_bound_to = 0, cpus_of_host = 0;
    std::string affinity;  // which CPUs, as text: equal for ranks that share them
    std::int32_t pid = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(protocol, host, program, cpus, cpus_bound_to, cpus_of_host, affinity, pid);
    }
};
// This process. Throws what reading its own build throws.
Hello introduce();

// refused, resigned
struct Refusal {
    std::string why;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(why);
    }
};

// An initializer or finalizer.
struct WiredHook {
    bool given = false;
    TaskId id;
    std::vector<std::uint8_t> arguments;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(given, id.where, id.signature, arguments);
    }
};

WiredHook wired(const WorkerHook& hook);
WorkerHook unwired(WiredHook hook);

struct OpenPool {
    std::uint32_t pool = 0;
    std::uint32_t processes = 0;
    PoolOptions options;  // its `task` is for what tasks submit there: the others have it all
    WiredHook initializer, finalizer;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pool, processes, options.max_tasks_per_child, options.max_memory_growth);
        for (Timeout* time : {&options.max_age, &options.idle_timeout, &options.stop_grace,
                              &options.terminate_grace, &options.leave_grace,
                              &options.start_patience, &options.start_timeout})
            wire(archive, *time);
        archive(options.pin_workers, options.inner_threads, options.output_limit, options.seed,
                options.arena_bytes);
        auto output = static_cast<std::uint8_t>(options.output);
        archive(output);
        options.output = output == 1 ? Output::capture : output == 2 ? Output::lines : Output::pass;
        archive(options.line_prefix);
        WorkerSettings settings(options);
        archive(settings);
        settings.put_into(options);
        SentOptions tasks{options.task};
        archive(tasks);
        options.task = std::move(tasks.options);
        archive(initializer, finalizer);
    }
    template <class Archive>
    static void wire(Archive& archive, Timeout& time) {
        std::int64_t ns = time.count();
        archive(ns);
        time = std::chrono::nanoseconds(ns);
    }
};

struct SubmitTask {
    std::uint32_t pool = 0;
    std::uint64_t number = 0;
    TaskId id;
    bool has_options = false;
    std::int64_t timeout_ns = 0, soft_timeout_ns = 0;
    std::uint64_t memory_limit = 0, key = 0;
    std::int32_t priority = 0;
    std::uint32_t items_begin = 0, items_end = 0, items_told = 0;
    std::uint64_t first_item = 0;
    std::uint16_t attempts = 0;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pool, number, id.where, id.signature, items_begin, items_end, items_told,
                first_item, attempts, has_options);
        if (has_options) archive(timeout_ns, soft_timeout_ns, memory_limit, key, priority);
    }
};

struct WiredReply {
    std::uint32_t pool = 0;
    std::uint64_t number = 0;
    bool is_value = false;
    std::uint64_t duration_ns = 0;
    WiredOutput output;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pool, number, is_value, duration_ns, output);
    }
};

struct WiredFailure {
    std::uint32_t pool = 0;
    std::uint64_t number = 0;
    std::uint8_t kind = 0;                  // FailureKind
    std::vector<std::uint8_t> other_error;  // serialized; empty: the details say it
    WiredDetails details;
    bool is_chunk = false;  // then the body has the results of so many items:
    std::uint32_t items = 0;
    std::uint64_t rest = 0;
    WiredOutput output;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(pool, number, rest, kind, other_error, details, is_chunk, items, output);
    }
};

struct Ping {
    std::int64_t silence_ns = 0;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(silence_ns);
    }
};

// cancel, cancelled
struct TaskNumber {
    std::uint32_t pool = 0;
    std::uint64_t number = 0;
    bool running_too = false;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(pool, number, running_too);
    }
};
// close, terminate, closed; and broken, which says why
struct PoolWord {
    std::uint32_t pool = 0;
    std::string why;
    template <class Archive>
    void serialize(Archive& archive) {
        archive(pool, why);
    }
};
struct Nothing {
    template <class Archive>
    void serialize(Archive&) {}
};

template <class Message>
std::vector<std::byte> packed(MessageKind kind, const Message& message) {
    HeapBuffer buffer;
    OutputArchive archive(buffer);
    archive(static_cast<std::uint8_t>(kind), message);
    return {buffer.bytes().begin(), buffer.bytes().end()};
}
template <class Message>
Frame framed(MessageKind kind, const Message& message) {
    return {packed(kind, message), {}, {}};
}
// What a frame is; leaves the archive at its message.
MessageKind kind_of(InputArchive& archive);
template <class Message>
Message unpacked(InputArchive& archive) {
    Message message{};
    archive(message);
    archive.expect_end();
    return message;
}

}  // namespace sidestep::detail

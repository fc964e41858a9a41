#include "nested/nested_message.hpp"

#include <cstring>
#include <string>
#include <type_traits>
#include <utility>

#include <sidestep/detail/sent_options.hpp>
#include <sidestep/pool_errors.hpp>
#include <sidestep/remote_error.hpp>

#include "lanes/host_lane.hpp"
#include "wired_details.hpp"

namespace sidestep::inline v0::detail {
namespace {

enum class Befell : std::uint8_t { lost, timed_out, out_of_memory, cancelled, broken, other };

// All that its error says.
struct NestedFailure {
    WiredDetails details;
    std::uint64_t task = 0;
    std::string type, name;

    template <class Archive>
    void serialize(Archive& archive) {
        archive(details, task, type, name);
    }
};

void save_task_error(OutputArchive& archive, Befell what, const TaskError& error) {
    const TaskError::Details& details = TaskErrorAccess::details(error);
    archive(what, NestedFailure{wired(details), details.task, details.task_type, details.name});
}

template <class Error>
std::exception_ptr load_task_error(InputArchive& archive) {
    NestedFailure failure;
    archive(failure);
    TaskError::Details details = unwired(std::move(failure.details));
    details.task = failure.task;
    details.task_type = std::move(failure.type);
    details.name = std::move(failure.name);
    return std::make_exception_ptr(Error(std::move(details)));
}

template <class Error>
std::exception_ptr load_text(InputArchive& archive) {
    std::string text;
    archive(text);
    return std::make_exception_ptr(Error(text));
}

std::exception_ptr load_failure(InputArchive& archive) {
    Befell what{};
    archive(what);
    switch (what) {
        case Befell::lost:
            return load_task_error<WorkerLost>(archive);
        case Befell::timed_out:
            return load_task_error<TaskTimeout>(archive);
        case Befell::out_of_memory:
            return load_task_error<OutOfMemory>(archive);
        case Befell::cancelled:
            return load_text<CancelledError>(archive);
        case Befell::broken:
            return load_text<BrokenPool>(archive);
        case Befell::other:
            break;
    }
    return load_exception(archive);
}

}  // namespace

void save_failure(OutputArchive& archive, const std::exception_ptr& failure) {
    try {
        std::rethrow_exception(failure);
    } catch (const WorkerLost& error) {
        save_task_error(archive, Befell::lost, error);
    } catch (const TaskTimeout& error) {
        save_task_error(archive, Befell::timed_out, error);
    } catch (const OutOfMemory& error) {
        save_task_error(archive, Befell::out_of_memory, error);
    } catch (const CancelledError& error) {
        archive(Befell::cancelled, std::string(error.what()));
    } catch (const BrokenPool& error) {
        archive(Befell::broken, std::string(error.what()));
    } catch (...) {
        archive(Befell::other);
        save_current_exception(archive, {});
    }
}

std::exception_ptr load_ending(NestedHead::Ending ending, std::span<const std::byte> bytes) {
    try {
        InputArchive archive(bytes);
        return ending == NestedHead::Ending::failure ? load_failure(archive)
                                                     : load_exception(archive);
    } catch (...) {
        return std::current_exception();
    }
}

bool is_cancellation(const std::exception_ptr& error) noexcept {
    try {
        std::rethrow_exception(error);
    } catch (const CancelledError&) {
        return true;
    } catch (...) {
        return false;
    }
}

void begin_message(BlobBuffer& buffer, const NestedHead& head) {
    static_assert(std::is_trivially_copyable_v<NestedHead>);
    buffer.write(&head, sizeof head);
}

BlobFds message_fds(std::span<const int> fds) {
    BlobFds sent;
    sent.fds.assign(fds.begin(), fds.end());
    sent.uses.assign(fds.size(), 1);
    return sent;
}

NestedHead head_of(const Blob& message) {
    NestedHead head;
    if (message.bytes().size() < sizeof head)
        throw SerializationError("a message about a nested task is cut short");
    std::memcpy(&head, message.bytes().data(), sizeof head);
    if (head.magic != NestedHead::kMagic)
        throw SerializationError("what came is no message about a nested task");
    return head;
}

std::span<const std::byte> body_of(const Blob& message) {
    return message.bytes().subspan(sizeof(NestedHead));
}

std::span<const std::byte> arguments_of(const Blob& message) {
    std::span<const std::byte> body = body_of(message);
    const std::uint64_t options = head_of(message).options;
    if (options > body.size())
        throw SerializationError("the options of a nested task are cut short");
    return body.first(body.size() - options);
}

std::optional<TaskOptions> options_of(const Blob& message) {
    const std::uint64_t size = head_of(message).options;
    if (size == 0) return {};
    SentOptions sent;
    InputArchive archive(body_of(message).subspan(arguments_of(message).size()));
    archive(sent);
    archive.expect_end();
    check_sent_options(sent.options);
    return std::move(sent.options);
}

}  // namespace sidestep::detail

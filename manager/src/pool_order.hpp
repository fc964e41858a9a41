// A task for a Pool of a server, on its way there: what a call of PoolOrderBody is given. Behind it
// come the task's arguments, as its worker reads them.
#pragma once

#include <cstdint>
#include <optional>

#include <sidestep/archive.hpp>
#include <sidestep/detail/sent_options.hpp>
#include <sidestep/task.hpp>

namespace sidestep::inline v0::detail {

struct PoolOrder {
    TaskId id;
    std::uint64_t fds = 0;               // so many descriptors come along
    std::optional<SentOptions> options;  // none: the pool's

    void save(OutputArchive& archive) const {
        archive(id.where, id.signature, fds, options.has_value());
        if (options) archive(*options);
    }
    void load(InputArchive& archive) {
        bool says_any = false;
        archive(id.where, id.signature, fds, says_any);
        if (says_any) archive(options.emplace());
    }
};

// Runs it in the pool of the call's object, and waits for it without holding up others. What comes
// of it is answered as it is: the bytes of a value, or of what the task threw; or what befell it.
struct PoolOrderBody {
    static void run(InputArchive& arguments, OutputArchive& result);
};

}  // namespace sidestep::detail

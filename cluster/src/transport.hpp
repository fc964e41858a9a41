// Frames between the processes of a job: one for each rank.
//
// Threads: a transport belongs to one thread at a time: the one that calls it. (MPI is asked by one
//          thread alone, and never waits.)
// Peer death: MPI ends the whole job. A transport that knows more says who is lost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace sidestep::inline v0::detail {

// What is sent: a head, and a body that stays where it is until it is sent.
struct Frame {
    std::vector<std::byte> head;
    std::span<const std::byte> body;
    std::shared_ptr<const void> keep;  // the body lives as long as this
};
struct ReceivedFrame {
    int from = 0;
    std::vector<std::byte> head, body;
    std::uint64_t missing = 0;  // bytes of a body for which there was no memory: it is empty
    std::shared_ptr<void> place = nullptr;  // else the body has come to it, and is empty here
};
// Where a large body is to come to, at once.
struct BodyPlace {
    std::byte* data = nullptr;   // null: there is none, and it comes with its frame
    std::shared_ptr<void> keep;  // it lives as long as this
};

// Want of memory is no end: what throws std::bad_alloc has lost nothing, and goes on where it was
// when it is called again.
class Transport {
  public:
    virtual ~Transport() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;
    // Who is asked for a place when a frame with a large body begins to come: by its head, and the
    // size of the body. It does not throw.
    using PlaceBody = std::function<BodyPlace(std::span<const std::byte> head, std::size_t size)>;
    virtual void place_bodies(PlaceBody place) = 0;
    // Only queues. Frames to one rank arrive in the order in which they were sent. If it throws,
    // the frame is what it was.
    virtual void send(int to, Frame&& frame) = 0;
    // Does what can be done without waiting. False: there was nothing.
    virtual bool progress() = 0;
    // The next frame that has come; nothing: there is none now.
    virtual std::optional<ReceivedFrame> receive() = 0;
    // What was queued has left this process.
    virtual bool all_sent() const = 0;
    // Something is on its way to or from here, and waits for progress().
    virtual bool is_moving() const { return !all_sent(); }
    // A rank that is gone, each once; nothing: there is none.
    virtual std::optional<int> lost() { return {}; }
};

}  // namespace sidestep::detail

// Frames over MPI (MPI 3.1, its C interface). Compiled for each MPI.
//
// On the wire: messages of many frames each, up to 64 KiB. A head or a body that is larger than
// that comes in messages of its own, which are received where it is to be; messages from one rank
// keep their order (MPI 3.1, 3.5). No call waits: two ranks that sent each other something large
// would wait for ever. An error in MPI ends the job: so it is set up by default, and a part of a
// job is of no use.
//
// Memory: each step first has all it needs, and then does not throw. A body for which there is none
// has to be received all the same: piece by piece, into one that is thrown away.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "transport.hpp"

namespace sidestep::inline v0::detail {

class MpiTransport final : public Transport {
  public:
    // Requires: MPI is initialized. Collective: all ranks of the job make one.
    MpiTransport();
    // What is on its way still is dropped, as are frames that only wait: but bodies that MPI has
    // begun to send stay with it for good.
    ~MpiTransport() override;

    int rank() const override { return rank_; }
    int size() const override { return static_cast<int>(peers_.size()); }
    void place_bodies(PlaceBody place) override { place_body_ = std::move(place); }
    void send(int to, Frame&& frame) override;
    bool progress() override;
    std::optional<ReceivedFrame> receive() override;
    bool all_sent() const override { return unsent_ == 0; }
    bool is_moving() const override;

  private:
    static constexpr int kBatchTag = 1, kPieceTag = 2;
    static constexpr std::size_t kBatchBytes = std::size_t(64) << 10;
    // MPI's counts are ints; this is small enough for tests to send several.
    static constexpr std::size_t kPieceBytes = std::size_t(8) << 20;
    static constexpr std::size_t kMostBatches = 8;  // on their way to one rank

    struct Sending {
        std::vector<std::byte> batch;
        std::vector<Frame> kept;  // of which something goes by itself
        std::vector<MPI_Request> requests;
        std::size_t frames = 0;
    };
    struct Batch {
        std::vector<std::byte> bytes;
        std::size_t taken = 0;                   // bytes whose frames are among those that come
        MPI_Request request = MPI_REQUEST_NULL;  // null: it is here
    };
    struct Incoming {
        ReceivedFrame frame;
        std::vector<MPI_Request> pieces;
    };
    // What is left of a body that is thrown away. Nothing behind it is received before.
    struct Dropped {
        std::size_t left = 0;
        std::vector<std::byte> piece;
        MPI_Request request = MPI_REQUEST_NULL;
    };
    struct Peer {
        std::deque<Frame> queue;
        std::list<Sending> sending;  // a list: MPI has the addresses of what is in it
        std::list<Batch> batches;
        std::list<Incoming> incoming;
        Dropped dropped;
    };

    bool send_some(int to, Peer& peer);
    void begin_batch(int to, Peer& peer);
    bool finish_sends(Peer& peer);
    bool probe();
    bool finish_batches(int from, Peer& peer);
    bool unpack(int from, Peer& peer, Batch& batch);
    void take_frame(int from, Peer& peer, Batch& batch);
    void receive_pieces(Incoming& incoming, std::span<std::byte> part);
    BodyPlace place_of(const ReceivedFrame& frame, std::size_t size) const;
    bool drop_some(int from, Dropped& dropped);
    bool finish_frames(Peer& peer);

    MPI_Comm comm_ = MPI_COMM_NULL;
    int rank_ = 0;
    MPI_Message matched_ = MPI_MESSAGE_NULL;  // a batch, for which there was no memory yet
    MPI_Status matched_status_{};
    std::vector<Peer> peers_;
    std::deque<ReceivedFrame> ready_;
    PlaceBody place_body_;    // empty: nobody is asked
    std::size_t unsent_ = 0;  // frames
};

}  // namespace sidestep::detail

#include "mpi/mpi_transport.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace sidestep::inline v0::detail {
namespace {

// In front of each frame in a batch.
struct FrameSizes {
    std::uint64_t head = 0, body = 0;
};

void append(std::vector<std::byte>& bytes, const void* data, std::size_t size) {
    auto* begin = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), begin, begin + size);
}

bool all_done(std::vector<MPI_Request>& requests) {
    int done = 1;
    if (!requests.empty())
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    return done != 0;
}

}  // namespace

MpiTransport::MpiTransport() {
    MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
    int size = 0;
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size);
    peers_.resize(static_cast<std::size_t>(size));
}

MpiTransport::~MpiTransport() {
    for (Peer& peer : peers_) {  // nobody waits for these
        for (Batch& batch : peer.batches)
            if (batch.request != MPI_REQUEST_NULL) MPI_Request_free(&batch.request);
        // MPI may write there until the end of the process.
        if (!peer.batches.empty()) new std::list<Batch>(std::move(peer.batches));
    }
}

void MpiTransport::send(int to, Frame frame) {
    peers_[static_cast<std::size_t>(to)].queue.push_back(std::move(frame));
    ++unsent_;
}

bool MpiTransport::progress() {
    bool any = false;
    while (probe()) any = true;
    for (std::size_t i = 0; i < peers_.size(); ++i) {
        int rank = static_cast<int>(i);
        Peer& peer = peers_[i];
        any = finish_batches(rank, peer) || any;
        any = finish_frames(peer) || any;
        any = finish_sends(peer) || any;
        any = send_some(rank, peer) || any;
    }
    return any;
}

std::optional<ReceivedFrame> MpiTransport::receive() {
    if (ready_.empty()) return {};
    ReceivedFrame frame = std::move(ready_.front());
    ready_.pop_front();
    return frame;
}

// --- sending -----------------------------------------------------------------------------------

bool MpiTransport::send_some(int to, Peer& peer) {
    bool any = false;
    while (!peer.queue.empty() && peer.sending.size() < kMostBatches) {
        begin_batch(to, peer);
        any = true;
    }
    return any;
}

// What waits goes together; for more nobody waits. A part of a frame that is too large for that
// goes by itself, behind the batch that tells its size.
void MpiTransport::begin_batch(int to, Peer& peer) {
    Sending& sending = peer.sending.emplace_back();
    std::vector<std::span<const std::byte>> large;
    while (!peer.queue.empty() && sending.batch.size() < kBatchBytes) {
        Frame& frame = sending.kept.emplace_back(std::move(peer.queue.front()));
        peer.queue.pop_front();
        ++sending.frames;
        FrameSizes sizes{frame.head.size(), frame.body.size()};
        append(sending.batch, &sizes, sizeof sizes);
        std::size_t before = large.size();
        for (std::span<const std::byte> part : {std::span<const std::byte>(frame.head), frame.body})
            if (part.size() <= kBatchBytes)
                append(sending.batch, part.data(), part.size());
            else
                large.push_back(part);
        if (large.size() == before) sending.kept.pop_back();
    }
    auto post = [&](const std::byte* data, std::size_t size, int tag) {
        MPI_Isend(data, static_cast<int>(size), MPI_BYTE, to, tag, comm_,
                  &sending.requests.emplace_back(MPI_REQUEST_NULL));
    };
    post(sending.batch.data(), sending.batch.size(), kBatchTag);
    for (std::span<const std::byte> part : large)
        for (std::size_t at = 0; at < part.size(); at += kPieceBytes)
            post(part.data() + at, std::min(kPieceBytes, part.size() - at), kPieceTag);
}

bool MpiTransport::finish_sends(Peer& peer) {
    bool any = false;
    for (auto at = peer.sending.begin(); at != peer.sending.end();) {
        if (!all_done(at->requests)) {
            ++at;
            continue;
        }
        unsent_ -= at->frames;
        at = peer.sending.erase(at);
        any = true;
    }
    return any;
}

// --- receiving ---------------------------------------------------------------------------------

bool MpiTransport::probe() {
    int found = 0, size = 0;
    MPI_Message message = MPI_MESSAGE_NULL;
    MPI_Status status;
    MPI_Improbe(MPI_ANY_SOURCE, kBatchTag, comm_, &found, &message, &status);
    if (!found) return false;
    MPI_Get_count(&status, MPI_BYTE, &size);
    Batch& batch = peers_[static_cast<std::size_t>(status.MPI_SOURCE)].batches.emplace_back();
    batch.bytes.resize(static_cast<std::size_t>(size));
    MPI_Imrecv(batch.bytes.data(), size, MPI_BYTE, &message, &batch.request);
    return true;
}

bool MpiTransport::finish_batches(int from, Peer& peer) {
    bool any = false;
    while (!peer.batches.empty()) {
        Batch& batch = peer.batches.front();
        int done = 0;
        MPI_Test(&batch.request, &done, MPI_STATUS_IGNORE);
        if (!done) break;
        unpack(from, peer, batch.bytes);
        peer.batches.pop_front();
        any = true;
    }
    return any;
}

// Sizes are believed: it is this program that wrote them.
void MpiTransport::unpack(int from, Peer& peer, const std::vector<std::byte>& bytes) {
    for (const std::byte* at = bytes.data(); at < bytes.data() + bytes.size();) {
        FrameSizes sizes;
        std::memcpy(&sizes, at, sizeof sizes);
        at += sizeof sizes;
        Incoming& incoming = peer.incoming.emplace_back();
        incoming.frame.from = from;
        at = take_part(incoming, incoming.frame.head, sizes.head, at);
        at = take_part(incoming, incoming.frame.body, sizes.body, at);
    }
}

// The part is here, or begins to come to where it is to be. What is behind it here.
const std::byte* MpiTransport::take_part(Incoming& incoming, std::vector<std::byte>& part,
                                         std::uint64_t size, const std::byte* at) {
    if (size <= kBatchBytes) {
        part.assign(at, at + size);
        return at + size;
    }
    part.resize(size);
    for (std::size_t done = 0; done < size; done += kPieceBytes)
        MPI_Irecv(part.data() + done,
                  static_cast<int>(std::min<std::size_t>(kPieceBytes, size - done)), MPI_BYTE,
                  incoming.frame.from, kPieceTag, comm_,
                  &incoming.pieces.emplace_back(MPI_REQUEST_NULL));
    return at;
}

bool MpiTransport::finish_frames(Peer& peer) {
    bool any = false;
    while (!peer.incoming.empty() && all_done(peer.incoming.front().pieces)) {
        ready_.push_back(std::move(peer.incoming.front().frame));
        peer.incoming.pop_front();
        any = true;
    }
    return any;
}

}  // namespace sidestep::detail

#include "mpi/mpi_transport.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include <sidestep/archive.hpp>

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

bool is_large(const Frame& frame, std::size_t most) {
    return frame.head.size() > most || frame.body.size() > most;
}

constexpr std::size_t pieces_of(std::size_t size, std::size_t piece) {
    return (size + piece - 1) / piece;
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
        // MPI may read and write there until the end of the process.
        if (!peer.sending.empty()) new std::list<Sending>(std::move(peer.sending));
        if (!peer.batches.empty()) new std::list<Batch>(std::move(peer.batches));
        if (!peer.incoming.empty()) new std::list<Incoming>(std::move(peer.incoming));
        if (peer.dropped.left > 0) new Dropped(std::move(peer.dropped));
    }
}

void MpiTransport::send(int to, Frame&& frame) {
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

bool MpiTransport::is_moving() const {
    return unsent_ > 0 || std::any_of(peers_.begin(), peers_.end(), [](const Peer& peer) {
               return !peer.batches.empty() || !peer.incoming.empty();
           });
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
    std::list<Sending> one(1);
    Sending& sending = one.front();
    std::vector<std::span<const std::byte>> large;
    std::size_t with_large = 0, pieces = 0;
    for (const Frame& frame : peer.queue) {
        if (sending.batch.size() >= kBatchBytes) break;
        ++sending.frames;
        with_large += is_large(frame, kBatchBytes) ? 1 : 0;
        FrameSizes sizes{frame.head.size(), frame.body.size()};
        append(sending.batch, &sizes, sizeof sizes);
        for (std::span<const std::byte> part :
             {std::span<const std::byte>(frame.head), frame.body}) {
            if (part.size() <= kBatchBytes) {
                append(sending.batch, part.data(), part.size());
            } else {
                large.push_back(part);
                pieces += pieces_of(part.size(), kPieceBytes);
            }
        }
    }
    sending.kept.reserve(with_large);
    sending.requests.reserve(1 + pieces);
    // From here on nothing throws.
    for (std::size_t i = 0; i < sending.frames; ++i) {
        if (is_large(peer.queue.front(), kBatchBytes))
            sending.kept.push_back(std::move(peer.queue.front()));
        peer.queue.pop_front();
    }
    auto post = [&](const std::byte* data, std::size_t size, int tag) {
        MPI_Isend(data, static_cast<int>(size), MPI_BYTE, to, tag, comm_,
                  &sending.requests.emplace_back(MPI_REQUEST_NULL));
    };
    post(sending.batch.data(), sending.batch.size(), kBatchTag);
    for (std::span<const std::byte> part : large)
        for (std::size_t at = 0; at < part.size(); at += kPieceBytes)
            post(part.data() + at, std::min(kPieceBytes, part.size() - at), kPieceTag);
    peer.sending.splice(peer.sending.end(), one);
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

// What was found can be received in no other way than by its handle, so that is kept until then.
bool MpiTransport::probe() {
    if (matched_ == MPI_MESSAGE_NULL) {
        int found = 0;
        MPI_Message message = MPI_MESSAGE_NULL;
        MPI_Improbe(MPI_ANY_SOURCE, kBatchTag, comm_, &found, &message, &matched_status_);
        if (!found) return false;
        matched_ = message;
    }
    int size = 0;
    MPI_Get_count(&matched_status_, MPI_BYTE, &size);
    std::list<Batch> one(1);
    Batch& batch = one.front();
    batch.bytes.resize(static_cast<std::size_t>(size));
    MPI_Imrecv(batch.bytes.data(), size, MPI_BYTE, &matched_, &batch.request);
    auto& batches = peers_[static_cast<std::size_t>(matched_status_.MPI_SOURCE)].batches;
    batches.splice(batches.end(), one);
    matched_ = MPI_MESSAGE_NULL;
    return true;
}

bool MpiTransport::finish_batches(int from, Peer& peer) {
    bool any = false;
    while (!peer.batches.empty()) {
        Batch& batch = peer.batches.front();
        int done = 1;
        if (batch.request != MPI_REQUEST_NULL) MPI_Test(&batch.request, &done, MPI_STATUS_IGNORE);
        if (!done || !unpack(from, peer, batch)) break;
        peer.batches.pop_front();
        any = true;
    }
    return any;
}

// False: not all of it now.
bool MpiTransport::unpack(int from, Peer& peer, Batch& batch) {
    for (;;) {
        if (!drop_some(from, peer.dropped)) return false;
        if (batch.taken == batch.bytes.size()) return true;
        take_frame(from, peer, batch);
    }
}

// Each part is here, or begins to come to where it is to be. Sizes are believed: it is this program
// that wrote them.
void MpiTransport::take_frame(int from, Peer& peer, Batch& batch) {
    const std::byte* at = batch.bytes.data() + batch.taken;
    FrameSizes sizes;
    std::memcpy(&sizes, at, sizeof sizes);
    at += sizeof sizes;
    std::list<Incoming> one(1);
    Incoming& incoming = one.front();
    ReceivedFrame& frame = incoming.frame;
    frame.from = from;
    auto make_part = [&](std::vector<std::byte>& part, std::uint64_t size) {
        part.reserve(size);
        if (size >= kLargeRead) expect_writes(part.data(), size);
        part.resize(size);
        if (size > kBatchBytes) return;
        std::copy_n(at, size, part.begin());
        at += size;
    };
    make_part(frame.head, sizes.head);
    const BodyPlace place = place_of(frame, sizes.body);
    frame.place = place.keep;
    try {
        if (!place.data) make_part(frame.body, sizes.body);
    } catch (const std::bad_alloc&) {
        if (sizes.body <= kBatchBytes) throw;
        frame.missing = sizes.body;
    }
    incoming.pieces.reserve(pieces_of(sizes.head, kPieceBytes) +
                            pieces_of(sizes.body, kPieceBytes));
    // From here on nothing throws.
    if (sizes.head > kBatchBytes) receive_pieces(incoming, frame.head);
    if (place.data)
        receive_pieces(incoming, {place.data, sizes.body});
    else if (sizes.body > kBatchBytes && frame.missing == 0)
        receive_pieces(incoming, frame.body);
    peer.dropped.left = frame.missing;
    peer.incoming.splice(peer.incoming.end(), one);
    batch.taken = static_cast<std::size_t>(at - batch.bytes.data());
}

// For one that goes by itself, and whose head is here.
BodyPlace MpiTransport::place_of(const ReceivedFrame& frame, std::size_t size) const {
    if (!place_body_ || size <= kBatchBytes || frame.head.size() > kBatchBytes) return {};
    return place_body_(frame.head, size);
}

void MpiTransport::receive_pieces(Incoming& incoming, std::span<std::byte> part) {
    for (std::size_t done = 0; done < part.size(); done += kPieceBytes)
        MPI_Irecv(part.data() + done, static_cast<int>(std::min(kPieceBytes, part.size() - done)),
                  MPI_BYTE, incoming.frame.from, kPieceTag, comm_,
                  &incoming.pieces.emplace_back(MPI_REQUEST_NULL));
}

// False: there is more to come.
bool MpiTransport::drop_some(int from, Dropped& dropped) {
    while (dropped.left > 0) {
        const std::size_t size = std::min(kPieceBytes, dropped.left);
        if (dropped.request == MPI_REQUEST_NULL) {
            dropped.piece.resize(size);
            MPI_Irecv(dropped.piece.data(), static_cast<int>(size), MPI_BYTE, from, kPieceTag,
                      comm_, &dropped.request);
        }
        int done = 0;
        MPI_Test(&dropped.request, &done, MPI_STATUS_IGNORE);
        if (!done) return false;
        dropped.left -= size;
    }
    dropped.piece = {};
    return true;
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

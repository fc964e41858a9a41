#include <sidestep/connection.hpp>

#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>

#include "connection/frame.hpp"
#include "connection/inbox.hpp"
#include "connection/tls.hpp"
#include "sys/error.hpp"
#include "sys/sys_socket.hpp"

namespace sidestep::inline v0 {
namespace {

// What a length alone may make us reserve (address space: pages come with the bytes).
constexpr std::size_t kReserveLimit = std::size_t(16) << 20;
// A string's memory is zeroed in pieces of this size, which the cache still holds when the bytes
// come to overwrite them.
constexpr std::size_t kStringStep = std::size_t(128) << 10;
// Buffers up to this size are kept from one message to the next.
constexpr std::size_t kKeptBuffer = std::size_t(4) << 20;

[[noreturn]] void throw_cut_short() {
    throw_errno(ECONNRESET, "recv: the other side was gone in the middle of a message");
}

std::size_t checked_size(std::uint64_t length) {
    if (length > static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max()))
        throw_errno(EBADMSG, fmt::format("recv: a message of {} bytes cannot be; the other side "
                                         "does not speak this protocol",
                                         length));
    return static_cast<std::size_t>(length);
}

// Up to this size, copying header and body together is cheaper than a call with two parts.
constexpr std::size_t kCopiedSend = std::size_t(8) << 10;

}  // namespace

BufferTooShort::BufferTooShort(std::string message, std::size_t room)
    : std::runtime_error(fmt::format("a message of {} bytes does not fit the {} bytes of the "
                                     "buffer; message() has it",
                                     message.size(), room)),
      message_(std::make_shared<const std::string>(std::move(message))) {}

// --- life ------------------------------------------------------------------------------------

Connection::Connection(int fd, Direction direction)
    : writable_(direction != Direction::receive_only),
      readable_(direction != Direction::send_only) {
    if (fd < 0)
        throw std::invalid_argument(
            fmt::format("Connection: {} is not a descriptor; pass one that is open", fd));
    struct stat status;
    if (::fstat(fd, &status) < 0) throw_errno(errno, fmt::format("Connection: fd {}", fd));
    if (S_ISSOCK(status.st_mode))
        channel_ = sys::own_address(fd).storage.ss_family == AF_UNIX ? detail::Channel::unix_socket
                                                                     : detail::Channel::socket;
    fd_ = fd;
}

Connection::Connection() noexcept = default;

Connection::Connection(Connection&& other) noexcept { *this = std::move(other); }

Connection& Connection::operator=(Connection&& other) noexcept {
    if (this == &other) return *this;
    close();
    fd_ = std::exchange(other.fd_, -1);
    channel_ = other.channel_;
    readable_ = other.readable_;
    writable_ = other.writable_;
    tls_ = std::move(other.tls_);
    silence_ = other.silence_;
    torn_by_ = std::exchange(other.torn_by_, {});
    outgoing_ = std::move(other.outgoing_);
    inbox_ = std::move(other.inbox_);
    large_ = std::move(other.large_);
    large_size_ = std::exchange(other.large_size_, 0);
    return *this;
}

Connection::~Connection() { close(); }

void Connection::close() noexcept {
    if (tls_ && tls_.use_count() == 1 && fd_ >= 0) tls_->say_goodbye(fd_);
    tls_.reset();
    Fd(std::exchange(fd_, -1)).reset();
    outgoing_.reset();
    inbox_.reset();
    large_.reset();
    large_size_ = 0;
}

int Connection::release() {
    if (tls_ != nullptr)
        throw std::logic_error(
            "cannot release the descriptor: what goes through it is encrypted, with keys that only "
            "this connection has");
    if (buffered())
        throw std::logic_error(
            "cannot release the descriptor: messages were read ahead; receive them first");
    return std::exchange(fd_, -1);
}

bool Connection::buffered() const noexcept {
    return (inbox_ != nullptr && !inbox_->bytes().empty()) || (tls_ != nullptr && tls_->pending());
}

detail::Source Connection::source() const { return {fd_, channel_, tls_.get(), silence_}; }

Connection detail::secure_connection(int fd, std::shared_ptr<TlsStream> tls) {
    Connection connection(fd);
    connection.channel_ = Channel::tls;
    connection.tls_ = std::move(tls);
    return connection;
}

detail::Inbox& Connection::inbox() {
    if (inbox_ == nullptr) inbox_ = std::make_unique<detail::Inbox>();
    return *inbox_;
}

int Connection::fd() const {
    if (fd_ < 0) throw_errno(EBADF, "the connection is closed");
    return fd_;
}

Connection Connection::duplicate() const {
    DupFd copy = DupFd::duplicate_of(fd());
    Connection result(copy.fd());
    (void)copy.detach();
    result.readable_ = readable_;
    result.writable_ = writable_;
    result.torn_by_ = torn_by_;
    result.channel_ = channel_;
    result.tls_ = tls_;
    result.silence_ = silence_;
    return result;
}

void Connection::expect_readable() const {
    if (fd_ < 0) throw_errno(EBADF, "cannot receive: the connection is closed");
    if (!readable_)
        throw_errno(EBADF,
                    "cannot receive: this end only sends, or an earlier message was refused and "
                    "the place of the next is unknown; open a new connection");
}

void Connection::expect_writable() const {
    if (fd_ < 0) throw_errno(EBADF, "cannot send: the connection is closed");
    if (tls_ != nullptr) tls_->expect_own();  // before anything: the socket is its parent's, too
    if (!writable_)
        throw_errno(EBADF, "cannot send: this end only receives; send on the other one");
    if (torn_by_)
        throw_errno(EBADF,
                    fmt::format("cannot send: an earlier send failed in the middle of its message "
                                "({}), and the other side would take this one for the rest of it; "
                                "open a new connection",
                                *torn_by_ != 0 ? std::generic_category().message(*torn_by_)
                                               : "its thread was cancelled"));
}

// Runs a receive. If it fails after the message's first byte, the next message's place is lost.
// Before that (no memory for the call, say) nothing is: it can be called again.
template <class Receive>
auto Connection::receiving(Receive receive) {
    expect_readable();
    std::uint64_t before = inbox().consumed();
    try {
        return receive();
    } catch (...) {
        if (inbox_->consumed() != before) stop_receiving();
        throw;
    }
}

void Connection::stop_receiving() noexcept {
    readable_ = false;
    if (!writable_) close();
}

void Connection::save(OutputArchive& archive) const {
    if (fd_ < 0) throw SerializationError("cannot send a closed connection");
    if (tls_ != nullptr)
        throw SerializationError(
            "an encrypted connection cannot travel: its keys stay in the process that made it; let "
            "the other one connect");
    if (torn_by_)
        throw SerializationError(
            "cannot pass a connection on: a send failed in the middle of its message; open a new "
            "one");
    if (archive.fds() == nullptr)
        throw SerializationError(
            "a connection cannot travel here: only arguments of processes and messages over Unix "
            "sockets (Pipe(), or a Listener on a UnixAddress) carry descriptors");
    archive(archive.fds()->put(fd_), readable_, writable_, buffered());
    if (buffered()) inbox_->save(archive);
}

void Connection::load(InputArchive& archive) {
    DupFd fd;
    bool readable = false, writable = false, has_inbox = false;
    fd.load(archive);
    archive(readable, writable, has_inbox);
    Connection received(fd.fd());
    (void)fd.detach();
    received.readable_ = readable;
    received.writable_ = writable;
    if (has_inbox) received.inbox().load(archive);
    *this = std::move(received);
}

// --- sending ---------------------------------------------------------------------------------

detail::HeapBuffer& Connection::begin_message() {
    expect_writable();
    if (outgoing_ == nullptr || outgoing_->capacity() > kKeptBuffer)
        outgoing_ = std::make_unique<detail::HeapBuffer>();
    outgoing_->clear();
    return *outgoing_;
}

void Connection::send_message(const detail::HeapBuffer& message, std::span<const int> fds) {
    write_frame(message.bytes(), fds);
}

void Connection::send_bytes(std::span<const std::byte> bytes, std::size_t offset,
                            std::optional<std::size_t> size) {
    expect_writable();
    if (offset > bytes.size() || (size && *size > bytes.size() - offset))
        throw std::invalid_argument(
            fmt::format("send_bytes: {} bytes from {} on are not within a buffer of {} bytes",
                        size ? fmt::format("{}", *size) : "the", offset, bytes.size()));
    write_frame(bytes.subspan(offset, size.value_or(bytes.size() - offset)), {});
}

namespace {
std::size_t send_some_within(int socket, std::span<const std::byte> bytes, Timeout silence) {
    auto sent = sys::try_send(socket, bytes);
    for (const detail::Deadline deadline = detail::deadline_after(silence); !sent;) {
        if (!sys::wait_ready(socket, POLLOUT, deadline))
            throw_errno(ETIMEDOUT, fmt::format("send: the other side has taken nothing for {} ms",
                                               silence.count() / 1'000'000));
        sent = sys::try_send(socket, bytes);
    }
    return *sent;
}
}  // namespace

std::size_t Connection::send_some(std::span<const std::byte> head, std::span<const std::byte> body,
                                  std::span<const int> fds) {
    switch (channel_) {
        case detail::Channel::file:
            return sys::write_some(fd_, head, body);
        case detail::Channel::tls:
            return tls_->send_some(fd_, head, body, silence_);
        default:
            if (silence_ && fds.empty())
                return send_some_within(fd_, head.empty() ? body : head, *silence_);
            return sys::send_some(fd_, head, body, fds);
    }
}

void Connection::write_frame(std::span<const std::byte> body, std::span<const int> fds) {
    FrameHeader header = encode_header(body.size());
    std::span<const std::byte> head = header.span();
    std::byte together[kCopiedSend];
    if (body.size() <= kCopiedSend - head.size()) {
        std::memcpy(together, head.data(), head.size());
        if (!body.empty()) std::memcpy(together + head.size(), body.data(), body.size());
        head = {together, head.size() + body.size()};
        body = {};
    }
    write_all(head, body, fds);
}

// Whole frames.
void Connection::write_all(std::span<const std::byte> head, std::span<const std::byte> body,
                           std::span<const int> fds) {
    bool begun = false;
    try {
        while (!head.empty() || !body.empty()) {
            std::size_t sent = send_some(head, body, fds);
            begun = true;
            fds = {};  // they went with the first byte
            std::size_t of_head = std::min(sent, head.size());
            head = head.subspan(of_head);
            body = body.subspan(sent - of_head);
        }
    } catch (const std::system_error& error) {
        // Where the other side has gone, each later send says so anyway.
        int code = error.code().value();
        begun = begun || channel_ == detail::Channel::tls;  // a part of a record may be on its way
        if (begun && code != EPIPE && code != ECONNRESET) stop_sending(code);
        throw;
    } catch (const std::exception&) {
        if (begun) stop_sending(ENOMEM);
        throw;
    } catch (...) {  // the thread is cancelled: how much it had sent, nobody knows
        stop_sending(0);
        throw;
    }
}

// Half a frame is on its way. Nothing may follow it, not by another descriptor of the stream
// either: the other side is told that no more comes, rather than left to wait for the rest.
void Connection::stop_sending(int error) noexcept {
    torn_by_ = error;
    if (channel_ != detail::Channel::file) (void)::shutdown(fd_, SHUT_WR);
}

// --- receiving -------------------------------------------------------------------------------

void Connection::read_exactly(std::span<std::byte> buffer) {
    if (!inbox_->read_exactly(source(), buffer)) throw_cut_short();
}

// The length of the next message, whose first byte is then the next to read. Only here, before the
// first byte, is the end of the stream clean.
std::size_t Connection::read_header(std::optional<std::size_t> max_length) {
    std::size_t got = inbox_->fill(source(), FrameHeader::kShort);
    if (got == 0) throw EndOfStream("the other side has closed the connection");
    if (got < FrameHeader::kShort) {
        inbox_->consume(got);
        throw_cut_short();
    }
    ShortHeader header = decode_short_header(inbox_->bytes().first<FrameHeader::kShort>());
    inbox_->consume(FrameHeader::kShort);
    if (header.kind == ShortHeader::Kind::invalid)
        throw_errno(EBADMSG,
                    "recv: a negative length; the other side does not speak this protocol");
    std::uint64_t length = header.length;
    if (header.kind == ShortHeader::Kind::extended) {
        std::byte extended[FrameHeader::kLong - FrameHeader::kShort];
        read_exactly(extended);
        length = load_big_endian(extended);
    }
    if (max_length && length > *max_length)
        throw_errno(EMSGSIZE, fmt::format("recv: a message of {} bytes, and {} are allowed", length,
                                          *max_length));
    return checked_size(length);
}

// What is not received as the message's reader wants it is dropped.
void Connection::drop_fds() {
    detail::IncomingFds dropped;
    inbox_->take_fds(dropped);
}

std::string Connection::read_string(std::size_t size) {
    std::string message;
    message.reserve(std::min(size, kReserveLimit));
    while (message.size() < size) {
        std::size_t done = message.size();
        if (done == message.capacity()) message.reserve(std::min(size, 2 * done));
        std::size_t step = std::min({size - done, message.capacity() - done, kStringStep});
        message.resize(done + step);
        read_exactly(std::as_writable_bytes(std::span(message).subspan(done)));
    }
    return message;
}

std::span<const std::byte> Connection::read_large(std::size_t size) {
    std::size_t done = 0;
    while (done < size) {
        if (done == large_size_) {
            std::size_t larger = std::min(size, std::max(2 * done, kReserveLimit));
            std::unique_ptr<std::byte[]> memory(new std::byte[larger]);
            if (done > 0) std::memcpy(memory.get(), large_.get(), done);
            large_ = std::move(memory);
            large_size_ = larger;
        }
        std::size_t step = std::min(size, large_size_) - done;
        read_exactly({large_.get() + done, step});
        done += step;
    }
    return {large_.get(), size};
}

std::span<const std::byte> Connection::receive_message(detail::IncomingFds& fds,
                                                       std::optional<std::size_t> max_length) {
    if (large_size_ > kKeptBuffer) {
        large_.reset();
        large_size_ = 0;
    }
    return receiving([&] {
        std::size_t size = read_header(max_length);
        std::span<const std::byte> message;
        if (size > detail::Inbox::kWindow) {
            message = read_large(size);
        } else {
            if (inbox_->fill(source(), size) < size) throw_cut_short();
            message = inbox_->bytes().first(size);
            inbox_->consume(size);
        }
        inbox_->take_fds(fds);
        return message;
    });
}

std::string Connection::recv_bytes(std::optional<std::size_t> max_length) {
    return receiving([&] {
        std::string message = read_string(read_header(max_length));
        drop_fds();
        return message;
    });
}

std::size_t Connection::recv_bytes_into(std::span<std::byte> buffer, std::size_t offset) {
    if (offset > buffer.size())
        throw std::invalid_argument(fmt::format(
            "recv_bytes_into: offset {} is beyond the buffer of {} bytes", offset, buffer.size()));
    std::span<std::byte> room = buffer.subspan(offset);
    std::string too_long;
    std::size_t size = receiving([&] {
        std::size_t length = read_header({});
        if (length <= room.size())
            read_exactly(room.first(length));
        else
            too_long = read_string(length);
        drop_fds();
        return length;
    });
    if (size > room.size()) throw BufferTooShort(std::move(too_long), room.size());
    return size;
}

bool Connection::poll(std::optional<Timeout> timeout) const {
    expect_readable();
    return buffered() || sys::wait_ready(fd_, POLLIN, detail::deadline_after(timeout));
}

// --- pipes and handles -----------------------------------------------------------------------

std::pair<Connection, Connection> Pipe(const PipeOptions& options) {
    auto [first, second] = sys::make_stream_pair();
    if (!options.duplex && ::shutdown(first.get(), SHUT_WR) < 0) throw_errno(errno, "shutdown");
    Connection a(first.get(), options.duplex ? Direction::both : Direction::receive_only);
    (void)first.release();
    Connection b(second.get(), options.duplex ? Direction::both : Direction::send_only);
    (void)second.release();
    return {std::move(a), std::move(b)};
}

void send_handle(Connection& connection, int fd) {
    connection.expect_writable();
    detail::OutgoingFds fds(connection.carries_fds());
    fds.put(fd);
    std::byte count{1};
    sys::send_some(connection.fd_, {&count, 1}, {}, fds.fds());
}

DupFd recv_handle(Connection& connection) {
    connection.expect_readable();
    if (!connection.carries_fds())
        throw SerializationError(
            "recv_handle: this connection cannot carry descriptors: it is not a Unix socket");
    detail::Inbox& inbox = connection.inbox();
    if (inbox.fill(connection.source(), 1) == 0)
        throw EndOfStream("the other side has closed the connection");
    inbox.consume(1);
    detail::IncomingFds fds;
    inbox.take_fds(fds);
    return DupFd(fds.get(0));
}

}  // namespace sidestep

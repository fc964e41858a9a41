// Connections: messages over a byte stream. Connection and Pipe() are here; <sidestep/listener.hpp>
// (Listener, Client, authentication), <sidestep/wait.hpp> and <sidestep/dup_fd.hpp> come with it.
//
//     auto [here, there] = Pipe();
//     here.send(std::vector<int>{1, 2, 3});               // any type that cereal can serialize
//     auto numbers = there.recv<std::vector<int>>();
//     here.send_bytes("raw");                             // or just bytes, framed as Python does
//     std::string raw = there.recv_bytes();
//
// Descriptors (DupFd), connections and the handles of this library travel inside messages over
// Unix sockets: over Pipe() and between a Listener and a Client on a UnixAddress. recv_bytes()
// drops the descriptors of a message.
//
// Ownership:  move-only; the destructor closes. A Connection that is sent (inside a message, or as
//             an argument of a process) stays open here: the receiver has a second one to the same
//             stream, and the other side sees the end when both are closed.
// Threads:    one thread may send while another receives. Two senders, or two receivers, need a
//             lock of their own (Python's rule, too).
// Processes:  a Connection reads ahead (32 KiB at most), so a stream has one receiver: when a
//             connection is sent, what was read ahead goes along, and only one of the two may
//             receive from then on. Where several processes take turns, use a Queue.
// Fork:       O_CLOEXEC. A forked child owns copies: close the end that it does not use, or the
//             end of the stream is never seen.
// Peer death: recv throws EndOfStream once everything that was sent before is read; a message cut
//             short is a std::system_error (ECONNRESET), and sending is one too (EPIPE). There is
//             never a SIGPIPE. Over TCP, a peer that dies or closes before it has read all that was
//             sent to it resets the stream: recv then throws ECONNRESET (as Python does), also
//             between two messages, and what the peer had sent last may be lost.
// Trust:      what is received is checked, whoever sent it: it is a T, or an error. Whoever shares
//             the stream chooses its value, and the descriptors in it. Function pointers are
//             refused. For a peer that is trusted less than this: recv_bytes().
// Errors:     EndOfStream, BufferTooShort, SerializationError; std::system_error: EBADF for a
//             closed connection or the wrong direction, EMSGSIZE for a message beyond the limit
//             that recv was given, EBADMSG for what is no frame. After the last two the connection
//             cannot receive any more: where the next message begins is not known. A send that
//             fails in the middle of its message (no memory in the kernel, a cancelled thread) is
//             the last one: the later ones say so (EBADF), and the other side finds a message cut
//             short (over a pipe: when this end is closed).
// Encrypted:  what a Listener and a Client with `encrypted` make (listener.hpp) belongs to the
//             process that made it: it cannot be sent elsewhere, and in a forked child all calls
//             fail (EBADF). EBADMSG: something came that the other side did not send; ECONNRESET:
//             the stream was cut off (its process was killed, or somebody between cut it).
// Limits:     253 descriptors in a message: of a peer that sends more, twice as many are open here
//             at most, and the others are lost; a message may name them 1024 times. A length is
//             only believed as far as bytes arrive: memory grows with them. See archive.hpp for
//             what values may take. Signals interrupt nothing (EINTR is retried).
// Wire:       frames as Python's multiprocessing.connection has them. What send() writes begins
//             with 12 bytes that tell its type, by its (mangled) name; send_bytes() adds nothing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sidestep/archive.hpp>
#include <sidestep/dup_fd.hpp>
#include <sidestep/timeout.hpp>
#include <sidestep/wait.hpp>

namespace sidestep::inline v0 {

// The other side has closed the connection (or is dead), and all that it had sent was received.
class EndOfStream : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// The message did not fit the buffer of recv_bytes_into(): here it is, whole.
class BufferTooShort : public std::runtime_error {
  public:
    BufferTooShort(std::string message, std::size_t room);
    const std::string& message() const { return *message_; }

  private:
    std::shared_ptr<const std::string> message_;  // shared: exceptions are copied
};

enum class Direction : std::uint8_t { both, receive_only, send_only };
class Connection;

namespace detail {

enum class Channel : std::uint8_t { unix_socket, socket, file, tls };
class FrameBatch;
class Inbox;
class TlsStream;
struct Source;

// What send() puts in front of a value, so that it is read as what it is.
struct MessageType {
    static constexpr std::uint32_t kMagic = 0x317453d6;  // no pickle begins so, and hardly a text
    static constexpr std::size_t kSize = sizeof kMagic + sizeof(std::uint64_t);
    const char* name;  // type_info::name()
    std::uint64_t tag;

    explicit MessageType(const std::type_info& type) noexcept;
};
template <class T>
const MessageType& message_type() {
    static const MessageType type(typeid(T));
    return type;
}
// The value's bytes. Throws SerializationError, with what came instead, if it is of another type.
std::span<const std::byte> open_message(std::span<const std::byte> message,
                                        const MessageType& expected);

// The descriptors of a message on its way out: numbered in the order in which they were put.
class OutgoingFds final : public FdSink {
  public:
    explicit OutgoingFds(bool allowed) : allowed_(allowed) {}
    std::uint64_t put(int fd) override;
    std::span<const int> fds() const { return fds_; }

  private:
    bool allowed_;
    std::vector<int> fds_;  // borrowed until the message is sent
};

// The descriptors that came with a message; those that nobody takes are closed.
class IncomingFds final : public FdSource {
  public:
    int get(std::uint64_t number) override;
    std::shared_ptr<void> get_lasting(std::uint64_t number, Make make) override;
    void add(DupFd fd) { fds_.push_back(std::move(fd)); }
    void set_lost() { lost_ = true; }

  private:
    // What an honest message stays below, however often it names one descriptor.
    static constexpr std::size_t kMostCopies = 1024;
    std::vector<DupFd> fds_;
    std::map<std::pair<std::uint64_t, Make>, std::shared_ptr<void>> lasting_;  // made already
    std::size_t copies_ = 0;
    bool lost_ = false;  // the process's table of descriptors was full, or there were too many
};

// Takes over a socket on which the handshake of TLS is done.
Connection secure_connection(int fd, std::shared_ptr<TlsStream> tls);

}  // namespace detail

class Connection {
  public:
    // A closed one.
    Connection() noexcept;
    // Takes over a connected stream: a socket, an end of a pipe, a terminal. Throws
    // std::invalid_argument for a negative number, std::system_error (EBADF) for one that is not
    // open; it is not taken over then.
    explicit Connection(int fd, Direction direction = Direction::both);
    Connection(Connection&& other) noexcept;
    Connection& operator=(Connection&& other) noexcept;
    ~Connection();

    // Sends one message. Blocks while the stream is full. If serializing throws, nothing was sent.
    template <class T>
    void send(const T& value) {
        if constexpr (std::is_convertible_v<const T&, std::string_view> &&
                      !std::is_same_v<T, std::string>) {
            send(std::string(std::string_view(value)));
        } else {
            check_message<T>();
            detail::HeapBuffer& buffer = begin_message();
            detail::OutgoingFds fds(carries_fds());
            OutputArchive archive(buffer, &fds);
            archive(detail::MessageType::kMagic, detail::message_type<T>().tag, value);
            send_message(buffer, fds.fds());
        }
    }
    // Receives one message; blocks until it is here. Throws SerializationError if it is not
    // exactly a T: send() of another type, send_bytes(), a Python pickle, damaged (the message is
    // consumed then). max_length: of the value's bytes.
    template <class T>
    T recv(std::optional<std::size_t> max_length = {}) {
        check_message<T>();
        detail::IncomingFds fds;
        if (max_length) *max_length += std::min(detail::MessageType::kSize, ~*max_length);
        auto bytes =
            detail::open_message(receive_message(fds, max_length), detail::message_type<T>());
        InputArchive archive(bytes, &fds);
        T value = detail::make_blank<T>();
        archive(value);
        archive.expect_end();
        return value;
    }

    // Sends `size` bytes (default: all that follow) from `offset` on as one message. Throws
    // std::invalid_argument if these are not within `bytes`.
    void send_bytes(std::span<const std::byte> bytes, std::size_t offset = 0,
                    std::optional<std::size_t> size = {});
    void send_bytes(std::string_view bytes, std::size_t offset = 0,
                    std::optional<std::size_t> size = {}) {
        send_bytes(std::as_bytes(std::span(bytes.data(), bytes.size())), offset, size);
    }
    // Receives one message of `max_length` bytes at most.
    std::string recv_bytes(std::optional<std::size_t> max_length = {});
    // Receives one message into `buffer`, from `offset` on; returns its size. Throws
    // BufferTooShort with the message if it does not fit, std::invalid_argument for an offset
    // beyond the buffer.
    std::size_t recv_bytes_into(std::span<std::byte> buffer, std::size_t offset = 0);

    // True if there is something to receive: a message (or the begin of one), or the end of the
    // stream. Waits for it `timeout`, by default not at all; std::nullopt: as long as it takes.
    bool poll(std::optional<Timeout> timeout = Timeout()) const;

    // From now on recv throws std::system_error (ETIMEDOUT) when nothing at all comes for so long,
    // before a message or in the middle of one; in the middle, nothing can be received any more.
    // So does send, when nothing is taken. Of sockets only.
    void limit_silence(std::optional<Timeout> limit) { silence_ = limit; }

    // Throws if the connection is closed.
    int fd() const;
    bool closed() const noexcept { return fd_ < 0; }
    // True if something was read ahead: there is something to receive even if fd() is not
    // readable. poll() and wait() know that; a select loop of your own must ask.
    bool buffered() const noexcept;
    bool readable() const noexcept { return fd_ >= 0 && readable_; }
    bool writable() const noexcept { return fd_ >= 0 && writable_ && !torn_by_; }
    // True on Unix sockets.
    bool carries_fds() const noexcept { return channel_ == detail::Channel::unix_socket; }

    // A second connection to the same stream, e.g. for sending. What was read ahead stays here.
    Connection duplicate() const;
    // Idempotent.
    void close() noexcept;
    // Gives the descriptor to the caller. Throws std::logic_error if buffered().
    [[nodiscard]] int release();

    void save(OutputArchive& archive) const;
    void load(InputArchive& archive);

  private:
    template <class T>
    static constexpr void check_message() {
        static_assert(!detail::names_code<T>,
                      "a message cannot carry function pointers: whoever sent it could name any "
                      "function. Send data, or bind() a captureless lambda or a functor instead");
    }
    detail::HeapBuffer& begin_message();
    void send_message(const detail::HeapBuffer& message, std::span<const int> fds);
    void stop_sending(int error) noexcept;
    std::size_t send_some(std::span<const std::byte> head, std::span<const std::byte> body,
                          std::span<const int> fds);
    void write_frame(std::span<const std::byte> body, std::span<const int> fds);
    void write_all(std::span<const std::byte> head, std::span<const std::byte> body,
                   std::span<const int> fds);
    std::span<const std::byte> receive_message(detail::IncomingFds& fds,
                                               std::optional<std::size_t> max_length);
    std::size_t read_header(std::optional<std::size_t> max_length);
    void read_exactly(std::span<std::byte> buffer);
    std::string read_string(std::size_t size);
    std::span<const std::byte> read_large(std::size_t size);
    void drop_fds();
    detail::Inbox& inbox();
    template <class Receive>
    auto receiving(Receive receive);
    void stop_receiving() noexcept;
    void expect_readable() const;
    void expect_writable() const;
    detail::Source source() const;
    friend Connection detail::secure_connection(int fd, std::shared_ptr<detail::TlsStream> tls);
    friend class detail::FrameBatch;
    friend void send_handle(Connection& connection, int fd);
    friend DupFd recv_handle(Connection& connection);

    int fd_ = -1;
    detail::Channel channel_ = detail::Channel::file;
    bool writable_ = false;                   // constant while open
    std::shared_ptr<detail::TlsStream> tls_;  // of Channel::tls

    // the sending thread's
    std::optional<int> torn_by_;                    // what ended a send in the middle of a frame
    std::unique_ptr<detail::HeapBuffer> outgoing_;  // kept between messages

    // the receiving thread's
    bool readable_ = false;
    std::optional<Timeout> silence_;
    std::unique_ptr<detail::Inbox> inbox_;  // from the first recv on
    std::unique_ptr<std::byte[]> large_;    // a message that did not fit the inbox
    std::size_t large_size_ = 0;
};

struct PipeOptions {
    bool duplex = true;  // false: the first end only receives, the second only sends
};
// Two connections, each the other's peer.
std::pair<Connection, Connection> Pipe(const PipeOptions& options = {});

// Send and receive one descriptor by itself: one byte with the descriptor beside it, as Python's
// multiprocessing.reduction does, so that a Python program can be at the other end. The sender's
// stays open. recv_handle() throws SerializationError if what came carries no descriptor.
void send_handle(Connection& connection, int fd);
DupFd recv_handle(Connection& connection);

}  // namespace sidestep

#include <sidestep/listener.hpp>  // IWYU pragma: export

// What clients and servers of objects send each other, from a peer that says anything: a frame, and
// its body as each side reads that of its kind. (What a server does with frames that can be read:
// tests/manager/server_fault_test.cpp.)
//
// Holds: only SerializationError, or cereal's own exception, leaves it; memory stays within a small
// multiple of the input, whatever lengths it claims; and a head that was read is written as it was.
#include "object_frame.hpp"

#include <sidestep/archive.hpp>
#include <sidestep/connection.hpp>
#include <sidestep/remote_error.hpp>

#include <algorithm>
#include <cstdlib>
#include <span>
#include <string>

#include "memory.hpp"

using namespace sidestep;
using detail::FrameKind;

namespace {

template <class... Values>
void read(std::span<const std::byte> body) {
    InputArchive archive(body);
    std::tuple<Values...> values{};
    archive(values);
}

void read_body(FrameKind kind, std::span<const std::byte> body) {
    switch (kind) {
        case FrameKind::invoke:
            return read<std::string>(body);
        case FrameKind::get:
            return read<std::string, std::string>(body);
        case FrameKind::value:
            return read<detail::Welcome>(body);
        case FrameKind::error: {
            InputArchive archive(body);
            (void)detail::load_exception(archive);
            return;
        }
        case FrameKind::serves:
            return read<detail::ActorState>(body);
        case FrameKind::lost:
            return read<detail::Casualty>(body);
        case FrameKind::call:  // a proxy among its arguments
            return read<bool, detail::ServerName>(body);
        default:
            return read<std::uint64_t>(body);
    }
}

void read_frame(std::span<const std::byte> bytes) {
    detail::IncomingFds fds;
    InputArchive input(bytes, &fds);
    detail::ObjectFrame frame;
    input(frame);
    if (frame.bytes.size() > bytes.size()) std::abort();
    detail::HeapBuffer again;
    OutputArchive output(again);
    output(frame.head);
    const auto head = again.bytes();
    if (head.size() + frame.bytes.size() != bytes.size() ||
        !std::equal(head.begin(), head.end(), bytes.begin()))
        std::abort();
    read_body(frame.head.kind, frame.bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
    if (size > 100000) return 0;
    fuzz::begin();
    try {
        read_frame(std::as_bytes(std::span(data, size)));
    } catch (const SerializationError&) {
    } catch (const cereal::Exception&) {
    }
    fuzz::end(size, 20, 1 << 20);
    return 0;
}

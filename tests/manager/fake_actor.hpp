// A proxy's server, as its bytes name it; and a test in the place of an actor.
#pragma once

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include <catch2/catch.hpp>

#include <sidestep/connection.hpp>
#include <sidestep/listener.hpp>
#include <sidestep/proxy.hpp>

#include "connection/credentials.hpp"
#include "connection/handshake.hpp"
#include "connection/socket_address.hpp"
#include "object_frame.hpp"
#include "support.hpp"
#include "sys/fd.hpp"
#include "sys/sys_socket.hpp"

namespace test {

namespace mp = sidestep;
using mp::detail::FrameKind;
using mp::detail::ObjectFrame;
using mp::detail::ServerName;

template <class P>
ServerName server_of_proxy(const P& proxy) {
    mp::detail::HeapBuffer buffer;
    mp::OutputArchive output(buffer);
    output(proxy);
    mp::InputArchive input(buffer.bytes());
    bool any = false;
    ServerName server;
    input(any, server);
    return server;
}
template <class T>
mp::Proxy<T> proxy_at(const ServerName& server) {
    mp::detail::HeapBuffer buffer;
    mp::OutputArchive output(buffer);
    output(true, server, std::uint64_t(1), true, std::uint64_t(0));
    mp::InputArchive input(buffer.bytes());
    mp::Proxy<T> proxy;
    input(proxy);
    return proxy;
}

// Where an actor might be: what happens to connections is up to the test.
class FakeActor {
  public:
    FakeActor() : socket_(mp::sys::make_socket(AF_UNIX)) {
        const auto wanted = mp::resolve(mp::UnixAddress(), mp::AddressUse::listen);
        REQUIRE(mp::sys::bind(socket_.get(), wanted.front()) == 0);
        mp::sys::set_nonblocking(socket_.get(), true);
        mp::sys::listen(socket_.get(), 8);
        name_.address = mp::from_kernel(mp::sys::own_address(socket_.get()));
        name_.authkey = "key";
        name_.actor = "Fake";
        name_.restarts = true;
        name_.pid = ::getpid();
    }
    const ServerName& name() const { return name_; }
    mp::Fd accept() {
        mp::Fd peer;
        mp::sys::SocketAddress from;
        REQUIRE(test::eventually([&] {
            peer = mp::sys::try_accept(socket_.get(), from);
            return bool(peer);
        }));
        return peer;
    }
    // With the handshake.
    mp::Connection take() {
        mp::Fd peer = accept();
        const mp::Credentials credentials = mp::make_credentials("key", mp::Digest::sha256, false);
        mp::Handshake handshake(mp::Handshake::Side::listener, credentials);
        while (mp::advance(peer.get(), handshake))
            (void)mp::sys::wait_ready(peer.get(), POLLIN, std::nullopt);
        REQUIRE(handshake.state() == mp::Handshake::State::authenticated);
        mp::Connection connection(peer.release());
        CHECK(connection.recv<ObjectFrame>().head.kind == FrameKind::resume);
        return connection;
    }
    // And what each process of an actor says first.
    mp::Connection serve(std::uint32_t restarts) {
        mp::Connection connection = take();
        answer(connection, FrameKind::serves, 0,
               mp::detail::ActorState{.pid = ::getpid(), .restarts = restarts});
        return connection;
    }
    template <class T>
    static void answer(mp::Connection& connection, FrameKind kind, std::uint64_t request,
                       const T& value) {
        mp::detail::HeapBuffer body;
        mp::OutputArchive archive(body);
        archive(value);
        connection.send(ObjectFrame{{kind, request, 0, 0, {}}, body.bytes(), {}, {}, {}});
    }

  private:
    mp::Fd socket_;
    ServerName name_;
};

}  // namespace test

"""The other end of the interoperation tests where no new Python is at hand: the wire of
multiprocessing.connection from 3.12 on, written with sockets, hmac and hashlib alone.

usage: own_peer.py client|listener tcp|unix ADDRESS KEY [DIGEST]

Arguments and behaviour as mp_peer.py has them.
"""
import hmac
import os
import socket
import struct
import sys

role, family, address, key = sys.argv[1:5]
key = key.encode()
digest = sys.argv[5] if len(sys.argv) > 5 else "sha256"


def read(sock, size):
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            sys.exit(4)
        data += piece
    return data


def recv(sock):
    (size,) = struct.unpack("!i", read(sock, 4))
    if size == -1:
        (size,) = struct.unpack("!Q", read(sock, 8))
    return read(sock, size)


def send(sock, data):
    sock.sendall(struct.pack("!i", len(data)) + data)


def deliver(sock):
    message = b"{%s}" % digest.encode() + os.urandom(40)
    send(sock, b"#CHALLENGE#" + message)
    answer = recv(sock)
    assert answer[:1] == b"{" and len(answer) <= 256
    name, mac = answer[1:].split(b"}", 1)
    right = hmac.compare_digest(hmac.new(key, message, name.decode()).digest(), mac)
    send(sock, b"#WELCOME#" if right else b"#FAILURE#")
    if not right:
        sys.exit(3)


def answer(sock):
    message = recv(sock)
    assert message.startswith(b"#CHALLENGE#") and len(message) <= 256
    message = message[len(b"#CHALLENGE#"):]
    name = message[1:message.index(b"}")]
    send(sock, b"{%s}" % name + hmac.new(key, message, name.decode()).digest())
    if recv(sock) != b"#WELCOME#":
        sys.exit(3)


if family == "tcp":
    sock = socket.socket(socket.AF_INET)
    host, port = address.rsplit(":", 1)
    address = (host, int(port))
else:
    sock = socket.socket(socket.AF_UNIX)
    if address.startswith("@"):
        address = "\0" + address[1:]
if role == "client":
    sock.connect(address)
    answer(sock)
    deliver(sock)
else:
    sock.bind(address)
    sock.listen(1)
    where = sock.getsockname()
    print("%s:%d" % where if family == "tcp" else where, flush=True)
    sock, _ = sock.accept()
    deliver(sock)
    answer(sock)
while True:
    message = recv(sock)
    if not message:
        break
    send(sock, message)

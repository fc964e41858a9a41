"""Writes the seeds of the fuzzers' corpora: python3 make_corpus.py CORPUS_FOLDER

The seeds are what honest peers say; the fuzzers take them from there. What a fuzzer finds is added
to the folder by hand, by a name that says what it was.
"""
import hashlib
import os
import struct
import sys

root = sys.argv[1]


def seed(fuzzer, name, data):
    os.makedirs(os.path.join(root, fuzzer), exist_ok=True)
    with open(os.path.join(root, fuzzer, name), "wb") as file:
        file.write(data)


def frame(body):
    return struct.pack("!i", len(body)) + body


def text(s):
    return struct.pack("=Q", len(s)) + s


two_strings = struct.pack("=Q", 2) + text(b"ab") + text(b"")
seed("frame", "bytes", b"\0\0" + frame(b"hello") + frame(b"") + frame(b"x" * 100))
seed("frame", "into", b"\1\0" + frame(b"hello") + frame(b"y" * 65))
seed("frame", "typed", b"\2\1" + frame(two_strings) + frame(b"not that"))
seed("frame", "long_header", b"\0\1" + struct.pack("!iQ", -1, 5) + b"hello")
seed("frame", "too_long", b"\3\0" + struct.pack("!iQ", -1, 2**63 - 1) + b"hello")
seed("frame", "impossible", b"\3\0" + struct.pack("!iQ", -1, 2**63))
seed("frame", "negative", b"\0\0" + struct.pack("!i", -2))
seed("frame", "cut_short", b"\0\0" + frame(b"hello")[:7])

mac = hashlib.sha256(b"x").digest()
challenge = frame(b"#CHALLENGE#{sha256}" + b"r" * 40)
answer = frame(b"{sha256}" + mac)
seed("handshake", "client", b"\xfc" + answer + challenge + frame(b"#WELCOME#"))
seed("handshake", "listener", b"\xfc" + challenge + frame(b"#WELCOME#") + answer)
seed("handshake", "legacy", b"\xfd" + frame(b"#CHALLENGE#" + b"r" * 20) + frame(mac[:16]))
seed("handshake", "failure", b"\x08" + challenge + frame(b"#FAILURE#"))
seed("handshake", "silence", b"\0" * 300)
seed("handshake", "one_bit", b"\0" * 150 + b"\1")

seed("archive", "strings", b"\0" + two_strings)
seed("archive", "map", b"\1" + struct.pack("=Q", 1) + text(b"k") + struct.pack("=Qd", 1, 1.5))
seed("archive", "nested", b"\2" + struct.pack("=QQQi", 1, 1, 1, 7))
seed("archive", "tuple", b"\3\1c\0" + text(b"opt") + struct.pack("=hhh", 1, 2, 3))
seed("archive", "variant", b"\4" + struct.pack("=i", 1) + text(b"v"))
seed("archive", "pixels", b"\x08" + struct.pack("=QHHHH", 2, 1, 2, 3, 4))
seed("archive", "lying_length", b"\0" + struct.pack("=Q", 2**63))
seed("archive", "address", b"\x0b" + struct.pack("=Qi", 1, 1) + text(b"::1") + struct.pack("=H", 80))

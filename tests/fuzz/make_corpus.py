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


def typed(mangled, body):
    """What send() writes: a mark, the hash (FNV-1a) of the type's mangled name, the value."""
    tag = 0xCBF29CE484222325
    for byte in mangled.encode():
        tag = (tag ^ byte) * 0x100000001B3 % 2**64
    return struct.pack("=IQ", 0x317453D6, tag) + body


strings = "St6vectorINSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEESaIS5_EE"
two_strings = struct.pack("=Q", 2) + text(b"ab") + text(b"")
seed("frame", "bytes", b"\0\0" + frame(b"hello") + frame(b"") + frame(b"x" * 100))
seed("frame", "into", b"\1\0" + frame(b"hello") + frame(b"y" * 65))
seed("frame", "typed", b"\2\1" + frame(typed(strings, two_strings)) + frame(b"not that"))
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
bound = frame(b"#CHALLENGE#{sha256}" + b"r" * 40 + b" sidestep-listener-1")
seed("handshake", "bound_client", b"\xfc" + frame(b"#ANSWER#{sha256}" + b"r" * 40 + mac))
seed("handshake", "bound_listener", b"\xfc" + bound + frame(b"#WELCOME#{sha256}" + mac))
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

new = 1 << 31  # in front of a pointer's number: its object follows
words = struct.pack("=IQQQQ", new | 1, 1, 2, 3, 4)
base = struct.pack("=II", 1 << 30, new | 3) + b"w" * 32
derived = struct.pack("=I", new | 1) + text(b"D") + struct.pack("=I", new | 4) + b"w" * 32 + text(b"x")
seed("archive", "pointers", b"\x10" + words + struct.pack("=I", new | 2) + text(b"s") + base
     + struct.pack("=II", 1 << 30, new | 4) + b"w" * 32 + text(b"x") + struct.pack("=I", 2))
seed("archive", "one_as_another", b"\x10" + words + struct.pack("=I", 1))
seed("archive", "polymorphic", b"\x12" + derived)
seed("archive", "tree", b"\x13" + struct.pack("=QQQI", 1, 0, 0, 0) + struct.pack("=QI", 0, 0))
seed("archive", "chain", b"\x14" + b"\1" * 40 + b"\0")
seed("archive", "too_deep", b"\x14" + b"\1" * 2000)
seed("archive", "lying_blocks", b"\x15" + struct.pack("=Q", 2000) + b"\0" * 4096)

# Of objects in other processes: kind, request, caller, object, task (module, offset, signature)...
nowhere = struct.pack("=QQQ", 0, 0, 0)


def head(kind, task=nowhere):
    return struct.pack("=BQQQ", kind, 7, 1, 1) + task


seed("object", "call", head(0, struct.pack("=QQQ", 1, 2, 3)) + struct.pack("=Qi", 0, 1))
seed("object", "pin", head(1) + struct.pack("=Q", 99))
seed("object", "get", head(8) + text(b"board") + text(b"8JobBoard"))
seed("object", "invoke", head(9) + struct.pack("=Q", 0) + text(b"a method") + struct.pack("=i", 1))
seed("object", "lying_name", head(8) + struct.pack("=Q", 2**62))
seed("object", "welcome", head(5) + struct.pack("=IQiq", 2, 1, 1, 1))
casualty = struct.pack("=iii????", 1, 9, 0, True, False, True, False) + text(b"note")
seed("object", "lost", head(15) + casualty)
seed("object", "serves", head(14) + struct.pack("=iI?", 1, 2, False) + casualty)
seed("object", "resume", head(13) + struct.pack("=Q", 4711))
seed("object", "no_kind", head(200))

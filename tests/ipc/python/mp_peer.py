"""The other end of the interoperation tests: Python's own multiprocessing.connection.

usage: mp_peer.py client|listener tcp|unix ADDRESS KEY [DIGEST]

As a listener it prints its address. Then it echoes messages; an empty one ends it. With DIGEST
(Python 3.12 and later) its challenges are in that hash. Exit status 3: AuthenticationError; 4: hung up on.
"""
import sys
from multiprocessing import connection as c
from multiprocessing import AuthenticationError

role, family, address, key = sys.argv[1:5]
key = key.encode()
digest = sys.argv[5] if len(sys.argv) > 5 else None
if family == "tcp":
    host, port = address.rsplit(":", 1)
    address = (host, int(port))
elif address.startswith("@"):
    address = "\0" + address[1:]


try:
    if role == "client" and not digest:
        connection = c.Client(address, authkey=key)
    elif role == "client":
        connection = c.Client(address)
        c.answer_challenge(connection, key)
        c.deliver_challenge(connection, key, digest)
    else:
        listener = c.Listener(address, authkey=None if digest else key)
        where = listener.address
        print("%s:%d" % where if family == "tcp" else where, flush=True)
        connection = listener.accept()
        if digest:
            c.deliver_challenge(connection, key, digest)
            c.answer_challenge(connection, key)
except AuthenticationError:
    sys.exit(3)
except EOFError:
    sys.exit(4)
while True:
    message = connection.recv_bytes()
    if not message:
        break
    connection.send_bytes(message)

"""usage: handle_peer.py FD: on the inherited Unix socket FD, receives a descriptor, writes to it,
and sends it back, all with Python's own multiprocessing.reduction."""
import os
import sys
from multiprocessing import connection, reduction

conn = connection.Connection(int(sys.argv[1]))
fd = reduction.recv_handle(conn)
os.write(fd, b"python was here")
reduction.send_handle(conn, fd, os.getppid())
conn.send_bytes(b"done")

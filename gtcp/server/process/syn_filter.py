"""Closing a listening TCP socket without a reset of connections that are just being opened.

When a listening socket is closed, the kernel resets the connections in its accept queue. Their
clients can't tell whether what they sent has run. To accept all of them and then close leaves a
gap between the two, in which a busy service gets one more. On Linux a socket filter closes the
gap: new connections are not begun any more, those that were begun are completed and accepted, and
after that the queue stays empty.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys

#: From Linux's asm-generic/socket.h; the Python module does not have it.
SO_ATTACH_FILTER = 26

#: Classic BPF on the TCP header: drop SYN without ACK, pass everything else.
PROGRAM = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags
    (0x54, 0, 0, 0x12),  # and #0x12: SYN, ACK
    (0x15, 0, 1, 0x02),  # jeq #0x02: SYN alone?
    (0x06, 0, 0, 0),  # ret #0: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret: pass
)


def drop_new_connections(sock: socket.socket) -> bool:
    """Begin no new connections on a listening socket; return whether the system can do that.

    A client that connects meanwhile tries again after a second, as TCP does, and is refused when
    the socket is closed by then.
    """
    if sys.platform != "linux" or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    code = b"".join(struct.pack("HBBI", *each) for each in PROGRAM)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(PROGRAM), ctypes.addressof(buffer))
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    except OSError:  # not allowed here, or a kernel without it
        return False
    return True

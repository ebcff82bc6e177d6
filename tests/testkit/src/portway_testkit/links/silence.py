"""Sockets that hear nothing any more, as if their machine had no power: what is sent to them is not acknowledged.

Here: the kernel's own filter of packets, which needs no privilege. Not here: links that read what they drop, which is
acknowledged (link.py); what such a socket sends itself still leaves.
"""

import ctypes
import socket
import struct
from typing import Any, Final

# include/uapi/asm-generic/socket.h
_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27
_DROP_ALL: Final = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep nothing of the packet


def silence(sock: Any) -> None:
    """Drop every packet for this socket, or transport's socket; at a listening one, new connections too."""
    program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    described = struct.pack("HP", 1, ctypes.addressof(program))
    with socket.socket(fileno=socket.dup(sock.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)


def hear_again(sock: Any) -> None:
    """Take packets again; the other end repeats what was not acknowledged."""
    with socket.socket(fileno=socket.dup(sock.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)

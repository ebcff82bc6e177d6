"""The first bytes of a server's answer, looked at before OpenSSL reads them: whether they fit the client's hello.

A server that is sent a key share of one group may ask for another one that the hello names (HelloRetryRequest), and the
client's library then computes a key of that group, which may have 8,192 bits. A node never asks: it takes the group of
the first share, or refuses. Not here: everything that OpenSSL checks.
"""

from enum import Enum, auto
from typing import Final

_CHANGE_CIPHER_SPEC: Final = 20
_ALERT: Final = 21
_HANDSHAKE: Final = 22
_SERVER_HELLO: Final = 2
_RECORD_HEADER: Final = 5
# A whole alert: its header, its level and what it says.
ALERT_SIZE: Final = 7
# Up to the end of the hello's random value: headers of record and message, a version, 32 bytes.
_LOOKED_AT: Final = _RECORD_HEADER + 4 + 2 + 32
# The random value of a HelloRetryRequest, which is a ServerHello otherwise (RFC 8446 §4.1.3).
_RETRY: Final = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


class Verdict(Enum):
    MORE = auto()  # more bytes are needed
    FITS = auto()  # OpenSSL may read on
    ALERT = auto()  # a whole alert, which ends the handshake unless it is a warning
    UNFIT = auto()  # it asks for another group, or is in a form that could hide that


def look_at(first: bytes) -> Verdict:
    """What the first bytes of an answer are. What is not TLS fits: OpenSSL says what it is instead."""
    if not first:
        return Verdict.MORE
    kind = first[0]
    if kind == _ALERT:
        return Verdict.MORE if len(first) < ALERT_SIZE else Verdict.ALERT
    if kind not in (_HANDSHAKE, _CHANGE_CIPHER_SPEC):
        return Verdict.FITS
    if len(first) < _LOOKED_AT:
        return Verdict.MORE
    # OpenSSL passes over other messages and puts a message together from records of any size.
    whole = int.from_bytes(first[3:_RECORD_HEADER], "big") >= _LOOKED_AT - _RECORD_HEADER
    fits = kind == _HANDSHAKE and first[_RECORD_HEADER] == _SERVER_HELLO and whole
    return Verdict.FITS if fits and first[_LOOKED_AT - 32 : _LOOKED_AT] != _RETRY else Verdict.UNFIT

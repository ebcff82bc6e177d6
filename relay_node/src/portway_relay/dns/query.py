"""A query as bytes, read: by hand the common form, by dnspython every other.

Pure: bytes in, a value out. The common form is one question and at most EDNS; it costs 4 µs here and 60 in dnspython,
which has the last word on what is malformed. Not here: what is answered (answers.py).
"""

import socket
import struct
from dataclasses import dataclass
from typing import Final

import dns.edns
import dns.exception
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass

HEADER: Final = struct.Struct("!6H")
_QUESTION: Final = struct.Struct("!HH")
_OPT: Final = struct.Struct("!xHHBBHH")  # of the pseudo-record: type, size, extended code, version, flags, length
_OPTION: Final = struct.Struct("!HH")
_SUBNET: Final = struct.Struct("!HBB")
_OPT_TYPE: Final = 41
_CLIENT_SUBNET: Final = 8
_DO: Final = 0x8000
_MAX_NAME: Final = 255
_ADDRESS_SIZES: Final = {1: 4, 2: 16}
RESPONSE: Final = 0x8000
RECURSION_DESIRED: Final = 0x0100
_OPCODE: Final = 0x7800
# What an answer repeats: RD, as RFC 1035 demands, and CD (RFC 4035, section 3.1.6).
REPEATED: Final = RECURSION_DESIRED | 0x0010


@dataclass(frozen=True, slots=True)
class Subnet:
    """EDNS client subnet (RFC 7871): the network that the question was asked from. `address` has `bits` of it."""

    family: int  # 1 is IPv4, 2 is IPv6
    bits: int
    address: bytes

    @property
    def text(self) -> str:
        """The network's first address."""
        return socket.inet_ntop(
            socket.AF_INET if self.family == 1 else socket.AF_INET6,
            self.address.ljust(_ADDRESS_SIZES[self.family], b"\0"),
        )


@dataclass(frozen=True, slots=True)
class Edns:
    """What the asker said by EDNS: the largest answer over UDP, whether it knows DNSSEC."""

    size: int
    dnssec: bool
    subnet: Subnet | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """One question. `question` is its section as it came, `name` its name in lower case."""

    id: int
    flags: int
    question: bytes
    name: bytes
    kind: int
    of_class: int
    edns: Edns | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that is answered with a code alone. `edns`: it had EDNS, of whatever version."""

    id: int
    flags: int
    code: int
    question: bytes = b""
    edns: bool = False


def read_query(data: bytes) -> Query | Refused | None:
    """What a message asks; None for one that must not be answered: too short, or an answer itself."""
    return _read_common(data) or _read_other(data)


def _read_common(data: bytes) -> Query | None:
    """One question in a message of the common form; None for any other message."""
    try:
        number, flags, questions, answers, authorities, others = HEADER.unpack_from(data)
        if flags & (RESPONSE | _OPCODE) or questions != 1 or answers or authorities or others > 1:
            return None
        at = HEADER.size
        while length := data[at]:
            if length > 63:
                return None
            at += length + 1
        end = at + 1
        if end - HEADER.size > _MAX_NAME:
            return None
        kind, of_class = _QUESTION.unpack_from(data, end)
    except (struct.error, IndexError):
        return None
    rest = end + _QUESTION.size
    edns = None
    if others:
        edns = _read_edns(data, rest)
        if edns is None:
            return None
    elif len(data) != rest:
        return None
    # Lengths of labels are below 64, so they are no letters.
    return Query(number, flags, data[HEADER.size : rest], data[HEADER.size : end].lower(), kind, of_class, edns)


def _read_edns(data: bytes, at: int) -> Edns | None:
    try:
        kind, size, _, version, flags, length = _OPT.unpack_from(data, at)
        if data[at] or kind != _OPT_TYPE or version or len(data) != at + _OPT.size + length:
            return None
        at, subnet = at + _OPT.size, None
        while at < len(data):
            option, length = _OPTION.unpack_from(data, at)
            at += _OPTION.size
            if at + length > len(data):
                return None
            if option == _CLIENT_SUBNET:
                subnet = _read_subnet(data[at : at + length])
                if subnet is None:
                    return None
            at += length
    except struct.error:
        return None
    return Edns(size, bool(flags & _DO), subnet)


def _read_subnet(option: bytes) -> Subnet | None:
    """None for one without its form (RFC 7871, section 6)."""
    family, bits, scope = _SUBNET.unpack_from(option)
    address = option[_SUBNET.size :]
    size = _ADDRESS_SIZES.get(family)
    if size is None or scope or bits > 8 * size or len(address) != (bits + 7) // 8:
        return None
    if bits % 8 and address[-1] & (0xFF >> bits % 8):
        return None
    return Subnet(family, bits, address)


def _read_other(data: bytes) -> Query | Refused | None:
    if len(data) < HEADER.size:
        return None
    number, flags = _QUESTION.unpack_from(data)
    if flags & RESPONSE:
        return None
    if flags & _OPCODE:
        return Refused(number, flags, dns.rcode.NOTIMP)
    try:
        message = dns.message.from_wire(data)
        if len(message.question) != 1:
            return Refused(number, flags, dns.rcode.FORMERR)
        asked = message.question[0]
        name = asked.name.to_wire() or b""
    except dns.message.UnknownTSIGKey:
        return Refused(number, flags, dns.rcode.NOTAUTH)
    except (dns.exception.DNSException, ValueError):
        return Refused(number, flags, dns.rcode.FORMERR)
    question = name + _QUESTION.pack(asked.rdtype, asked.rdclass)
    if message.edns > 0:
        return Refused(number, flags, dns.rcode.BADVERS, question, edns=True)
    edns = None
    if message.edns == 0:
        subnet = next((one for one in message.options if one.otype == _CLIENT_SUBNET), None)
        # One that is well-formed was read by hand, unless the message has sections beside.
        known = _read_subnet(subnet.to_wire() or b"") if subnet is not None else None
        if subnet is not None and known is None:
            return Refused(number, flags, dns.rcode.FORMERR, question, edns=True)
        edns = Edns(message.payload, bool(message.ednsflags & _DO), known)
    return Query(number, flags, question, name.lower(), int(asked.rdtype), int(asked.rdclass), edns)

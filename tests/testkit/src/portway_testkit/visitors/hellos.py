"""ClientHellos: real ones from OpenSSL, and ones built field by field, which no library would send."""

import ssl
from collections.abc import Iterable, Sequence
from typing import Final

SERVER_NAME: Final = 0
GROUPS: Final = 10
SIGNATURES: Final = 13
ALPN: Final = 16
PADDING: Final = 21
VERSIONS: Final = 43
SHARES: Final = 51
_RECORD: Final = 16 * 1024


def real_hello(server_name: str | None, alpn: Sequence[str] = ()) -> bytes:
    """The first bytes of this Python's OpenSSL to `server_name`; None sends no name."""
    context = ssl.create_default_context()
    context.check_hostname = server_name is not None
    if alpn:
        context.set_alpn_protocols(list(alpn))
    sent = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=server_name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return sent.read()


def vector(content: bytes, length_size: int) -> bytes:
    """The content after its length, as a TLS vector."""
    return len(content).to_bytes(length_size) + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2) + vector(content, 2)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    """The extension that names the server; `kind` 0 is a host name."""
    return extension(SERVER_NAME, vector(b"".join(kind.to_bytes() + vector(name, 2) for name in names), 2))


def alpn(*protocols: bytes) -> bytes:
    """The extension that offers these protocols."""
    return extension(ALPN, vector(b"".join(vector(protocol, 1) for protocol in protocols), 2))


def groups(*offered: int) -> bytes:
    """The extension that names the key exchange groups."""
    return extension(GROUPS, vector(b"".join(group.to_bytes(2) for group in offered), 2))


def shares(*sent: tuple[int, bytes]) -> bytes:
    """The extension with key shares, each of a group."""
    return extension(SHARES, vector(b"".join(group.to_bytes(2) + vector(share, 2) for group, share in sent), 2))


def canned(name: str, offered: Sequence[int], sent: Sequence[tuple[int, bytes]], *more: bytes) -> bytes:
    """A hello of TLS 1.3 with signatures by ECDSA and RSA: a server works on it, and its sender computes nothing."""
    version = extension(VERSIONS, vector(b"\x03\x04", 1))
    signatures = extension(SIGNATURES, vector(bytes.fromhex("0403050306030804080508060807"), 2))
    return records(message([server_name(name.encode()), version, signatures, groups(*offered), shares(*sent), *more]))


def padding(size: int) -> bytes:
    """A padding extension of `size` bytes in all."""
    return extension(PADDING, bytes(size - 4))


def message(extensions: Iterable[bytes] | None = (), *, tail: bytes = b"") -> bytes:
    """The handshake message; None leaves the extensions out, `tail` follows them."""
    body = b"\x03\x03" + bytes(32) + vector(b"s" * 32, 1) + vector(b"\x13\x01", 2) + vector(b"\x00", 1)
    if extensions is not None:
        body += vector(b"".join(extensions), 2)
    return b"\x01" + vector(body + tail, 3)


def message_of(size: int, *extensions: bytes) -> bytes:
    """A message of `size` bytes in all."""
    missing = size - len(message(extensions))
    # The length of an extension has two bytes, and so has that of all of them.
    return message([*extensions, padding(missing)])


def records(content: bytes, size: int = _RECORD) -> bytes:
    """The message in handshake records of at most `size` bytes each."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"\x16\x03\x01" + vector(piece, 2) for piece in pieces)

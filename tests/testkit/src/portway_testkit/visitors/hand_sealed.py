"""A TLS connection whose handshake is `ssl`'s and whose records are sealed by hand: the kinds that `ssl` never sends.

Keys are derived from what `ssl` logs for debuggers. Only AES-256-GCM with SHA-384, which nodes prefer.
"""

import hmac
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from portway_testkit.visitors.hellos import vector

ALERT: Final = 21
HANDSHAKE: Final = 22
DATA: Final = 23
_SECRET: Final = 48
_KEY: Final = 32
_IV: Final = 12
_TAG: Final = 16
_READ: Final = 65_536


class HandSealed:
    """`with HandSealed(address, context, name) as visitor:` is connected. Raises OSError."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, server_name: str, timeout: float) -> None:
        self.socket = socket.create_connection(address, timeout)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "secrets"
            context.keylog_filename = str(log)
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)
            server_random = self._shake_hands()[11:43]  # behind the headers of the record and of the ServerHello
            context.keylog_filename = None  # type: ignore[assignment]
            lines = [line.split() for line in log.read_text().splitlines() if not line.startswith("#")]
        cipher = self._tls.cipher()
        assert cipher is not None
        assert "AES" in cipher[0]
        assert cipher[0].endswith("GCM-SHA384") or cipher[0].endswith("GCM_SHA384")
        secrets = {label: (bytes.fromhex(random), bytes.fromhex(secret)) for label, random, secret in lines}
        if self._tls.version() == "TLSv1.3":
            self._secret = secrets["CLIENT_TRAFFIC_SECRET_0"][1]
            self._use_secret()
        else:
            client_random, master = secrets["CLIENT_RANDOM"]
            block = _prf(master, b"key expansion" + server_random + client_random, 2 * _KEY + 4)
            self._secret, self._key, self._iv = b"", AESGCM(block[:_KEY]), block[2 * _KEY :]
            self._number = 1  # Finished was the first record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def sealed(self, kind: int, content: bytes) -> bytes:
        """The next record."""
        number, self._number = self._number.to_bytes(8), self._number + 1
        if not self._secret:
            header = bytes((kind, 3, 3))
            body = self._key.encrypt(self._iv + number, content, number + header + len(content).to_bytes(2))
            return header + vector(number + body, 2)
        header = b"\x17\x03\x03" + (len(content) + 1 + _TAG).to_bytes(2)
        nonce = int.from_bytes(self._iv) ^ int.from_bytes(number)
        return header + self._key.encrypt(nonce.to_bytes(_IV), content + bytes((kind,)), header)

    def key_update(self, *, asks: bool) -> bytes:
        """A KeyUpdate, after which records have the next keys; `asks` for the same from the peer."""
        record = self.sealed(HANDSHAKE, b"\x18\x00\x00\x01" + bytes((asks,)))
        self._secret = _expand(self._secret, b"traffic upd", _SECRET)
        self._use_secret()
        return record

    def read(self) -> bytes:
        """What arrives next, decrypted; nothing at the end, or when records have arrived that are no data."""
        received = self.socket.recv(_READ)
        self._incoming.write(received)
        try:
            return self._tls.read(_READ) if received else b""
        except ssl.SSLWantReadError:
            return b""

    def _shake_hands(self) -> bytes:
        """Returns all that the server has sent."""
        received = b""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                piece = self.socket.recv(_READ)
                self._incoming.write(piece)
                received += piece
            else:
                self.socket.sendall(self._outgoing.read())
                return received

    def _use_secret(self) -> None:
        self._key = AESGCM(_expand(self._secret, b"key", _KEY))
        self._iv = _expand(self._secret, b"iv", _IV)
        self._number = 0


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label (RFC 8446 §7.1)."""
    info = size.to_bytes(2) + vector(b"tls13 " + label, 1) + b"\x00"
    return HKDFExpand(SHA384(), size, info).derive(secret)


def _prf(secret: bytes, seed: bytes, size: int) -> bytes:
    """P_hash (RFC 5246 §5); `seed` begins with the label."""
    chained, made = seed, b""
    while len(made) < size:
        chained = hmac.digest(secret, chained, "sha384")
        made += hmac.digest(secret, chained + seed, "sha384")
    return made[:size]

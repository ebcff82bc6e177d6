"""TLS contexts made from the PEM settings of the contract.

Making an ssl.SSLContext takes about a millisecond, so contexts are cached by settings. `ssl` loads certificates and
keys only from files; on Linux these are in memory, so no key is on a disk and a full one changes nothing. On a system
without memfd_create there is a temporary file (TMPDIR, mode 0600) for as long as one load takes.
"""

import os
import ssl
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.bounded import BoundedMap
from portway_runtime.tls_choices import Group, restrict, restrict_client

from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ClientTls, ServerTls

# Of settings that were not prepared: a context takes some 20 KB. The bound keeps a certificate that is reloaded every
# minute from growing the cache.
_CAPACITY: Final = 128


@contextmanager
def _pem_file(content: bytes) -> Iterator[str]:
    """The path of a file with this content that only this process can open, or only this user without memfd_create."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("portway-pem", os.MFD_CLOEXEC), "wb") as memory:
            memory.write(content)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(prefix="portway-", suffix=".pem") as file:
            file.write(content)
            file.flush()
            yield file.name


def _load_identity(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    try:
        with _pem_file(certificate + b"\n" + key) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise TlsSettingsError(f"certificate and key cannot be used together: {error}") from None
    except OSError as error:
        reason = f"certificate and key cannot be loaded now: {error.strerror}"
        raise TlsSettingsError(reason, exhausted=True) from None


def _load_ca(context: ssl.SSLContext, ca: bytes) -> None:
    try:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise TlsSettingsError(f"the CA certificates cannot be used: {error}") from None


def _restrict(context: ssl.SSLContext, group: Group) -> None:
    try:
        restrict(context, group)
    except (ssl.SSLError, ValueError) as error:
        raise TlsSettingsError(f"OpenSSL cannot be set to the group {group.name}: {error}") from None


def _server_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lane = tls.alpn in (LINK_ALPN, MESH_ALPN)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if lane else ssl.TLSVersion.TLSv1_2
    _restrict(context, tls.group)
    context.options |= ssl.OP_NO_COMPRESSION | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    _load_identity(context, tls.certificate, tls.key)
    if tls.alpn is not None:
        context.set_alpn_protocols([tls.alpn])
    if lane:
        context.num_tickets = 0  # lanes live long, and Portway's clients do not resume sessions
    else:
        # Each takes 13 µs of a handshake of 180 µs. One is enough: a visitor that resumes is sent the next one.
        context.num_tickets = 1
    if tls.client_ca is not None:
        _load_ca(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _client_context(tls: ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3  # only lanes are dialled with TLS
    restrict_client(context)
    _load_ca(context, tls.ca)
    if tls.certificate is not None and tls.key is not None:
        _load_identity(context, tls.certificate, tls.key)
    if tls.alpn is not None:
        context.set_alpn_protocols([tls.alpn])
    return context


def _cache_key(tls: ServerTls | ClientTls) -> ServerTls | ClientTls:
    """Settings that need the same context are equal: a server's name is given to a connection, not to its context."""
    return replace(tls, server_name="") if isinstance(tls, ClientTls) else tls


class TlsContexts:
    """A cache of TLS contexts: those that were prepared, and of others the ones used last."""

    def __init__(self) -> None:
        self._prepared: dict[ServerTls | ClientTls, ssl.SSLContext] = {}
        self._cache: BoundedMap[ServerTls | ClientTls, ssl.SSLContext] = BoundedMap(_CAPACITY)

    def prepare(self, settings: Collection[ServerTls | ClientTls]) -> None:
        """As the contract says of Carrier.prepare."""
        keys = map(_cache_key, settings)
        self._prepared = {key: self._prepared.get(key) or _context(key) for key in keys}

    def get(self, tls: ServerTls | ClientTls) -> ssl.SSLContext:
        """The context for these settings. Raises TlsSettingsError when they cannot be used."""
        key = _cache_key(tls)
        context = self._prepared.get(key) or self._cache.get(key)
        if context is None:
            context = self._cache[key] = _context(key)
        elif key in self._cache:
            self._cache.move_to_end(key)
        return context


def _context(tls: ServerTls | ClientTls) -> ssl.SSLContext:
    return _server_context(tls) if isinstance(tls, ServerTls) else _client_context(tls)

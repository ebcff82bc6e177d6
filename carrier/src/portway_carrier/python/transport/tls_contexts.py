"""TLS contexts made from the PEM settings of the contract.

Making an ssl.SSLContext takes about a millisecond, so contexts are cached by settings.
"""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_runtime.bounded import BoundedMap
from portway_runtime.tls_choices import Group, restrict, restrict_client

from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ClientTls, ServerTls

# A node uses some six settings for each region at once. The bound keeps a certificate that is reloaded every minute
# from growing the cache.
_CAPACITY: Final = 128


@contextmanager
def _pem_file(*parts: bytes) -> Iterator[str]:
    """A temporary file with `parts`, readable by this user alone: `ssl` loads certificates and keys only from files."""
    descriptor, path = tempfile.mkstemp(prefix="portway-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"\n".join(parts))
        yield path
    finally:
        os.unlink(path)  # noqa: PTH108 - a path from mkstemp


def _load_identity(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    try:
        with _pem_file(certificate, key) as path:
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError) as error:
        raise TlsSettingsError(f"certificate and key cannot be used together: {error}") from None
    except OSError as error:  # no free descriptor, or no space on the disk
        raise TlsSettingsError(f"certificate and key cannot be loaded now: {error.strerror}") from None


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


class TlsContexts:
    """A cache of TLS contexts; the least recently used one is evicted first."""

    def __init__(self) -> None:
        self._cache: BoundedMap[ServerTls | ClientTls, ssl.SSLContext] = BoundedMap(_CAPACITY)

    def get(self, tls: ServerTls | ClientTls) -> ssl.SSLContext:
        """The context for these settings. Raises TlsSettingsError when they cannot be used."""
        context = self._cache.get(tls)
        if context is None:
            context = _server_context(tls) if isinstance(tls, ServerTls) else _client_context(tls)
            self._cache[tls] = context
        else:
            self._cache.move_to_end(tls)
        return context

"""TLS settings, which cross the contract as PEM, turned into what asyncio wants: an ssl.SSLContext.

A context costs about a millisecond, so one is kept for each settings value.
"""

import os
import ssl
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN

from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ClientTls, ServerTls

# A node has a handful of settings in use at once; reloading a certificate every minute must not grow this.
_KEPT: Final = 64


@contextmanager
def _pem_file(*parts: bytes) -> Iterator[str]:
    """`ssl` loads certificates and keys from files alone: one only this user can read, for a moment."""
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
    except OSError as error:  # no descriptor is left, or no room on the disk
        raise TlsSettingsError(f"certificate and key cannot be loaded now: {error.strerror}") from None


def _load_ca(context: ssl.SSLContext, ca: bytes) -> None:
    try:
        context.load_verify_locations(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise TlsSettingsError(f"the CA certificates cannot be used: {error}") from None


def _server_context(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    _load_identity(context, tls.certificate, tls.key)
    if tls.alpn is not None:
        context.set_alpn_protocols([tls.alpn])
    if tls.alpn in (LINK_ALPN, MESH_ALPN):
        context.num_tickets = 0  # lanes live long; and clients of Portway keep none
    else:
        context.num_tickets = 1  # each takes 13 µs of a handshake of 180, and a visitor that resumes gets its next one
    if tls.client_ca is not None:
        _load_ca(context, tls.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _client_context(tls: ClientTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    _load_ca(context, tls.ca)
    if tls.certificate is not None and tls.key is not None:
        _load_identity(context, tls.certificate, tls.key)
    if tls.alpn is not None:
        context.set_alpn_protocols([tls.alpn])
    return context


class Contexts:
    """The contexts of one carrier, least recently used first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[ServerTls | ClientTls, ssl.SSLContext] = OrderedDict()

    def of(self, tls: ServerTls | ClientTls) -> ssl.SSLContext:
        """Raises TlsSettingsError when the settings cannot be used."""
        context = self._kept.get(tls)
        if context is None:
            context = _server_context(tls) if isinstance(tls, ServerTls) else _client_context(tls)
            self._kept[tls] = context
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(tls)
        return context

"""Dialling a node's advertised address as a client does: TCP, TLS, and the certificate that it must show.

Here: one try from this registry, and why it failed in words. Not here: when one is made, by whom (reaching.py).
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from portway_proto.v1.types_pb2 import NodeInfo
from portway_proto.wire.limits import LINK_ALPN

# Says why a node was not reached; empty when it was.
Dial = Callable[[NodeInfo], Awaitable[str]]
# Ten of the longest round trips on Earth: a lost packet is sent again within.
DIALLED_WITHIN: Final = 3.0


def dial_by(cluster_ca: bytes) -> Dial:
    """Tries that verify nodes by this CA (PEM)."""
    context = ssl.create_default_context(cadata=cluster_ca.decode("ascii"))
    context.set_alpn_protocols([LINK_ALPN])

    async def dial(node: NodeInfo) -> str:
        try:
            async with asyncio.timeout(DIALLED_WITHIN):
                _, writer = await asyncio.open_connection(
                    node.host, node.port, ssl=context, server_hostname=node.server_name
                )
        except (OSError, TimeoutError, UnicodeError) as error:
            return _why(error, node)
        chosen: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        if chosen is None or chosen.selected_alpn_protocol() != LINK_ALPN:
            return "what answers there takes no clients' lanes: is it a relay node?"
        return ""

    return dial


def _why(error: OSError | TimeoutError | UnicodeError, node: NodeInfo) -> str:
    if isinstance(error, TimeoutError) and not error.args:
        return f"no answer within {DIALLED_WITHIN:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"what answers there does not show this node's certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and "UNRECOGNIZED_NAME" in (error.reason or ""):
        return f"what answers there does not go by {node.server_name}: is it another node?"
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed: {error.reason or error}"
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the name {node.host} cannot be resolved: {error}"
    # asyncio words some of them anew, with less in it.
    return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__

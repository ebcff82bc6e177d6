"""Establishing streams: on a socket that was accepted, or by dialling an address, with TLS or without.

What goes wrong is reported by the stream as a CarrierError. Not here: dialling through a proxy (proxied.py).
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

from portway_runtime.descriptors import EXHAUSTED
from portway_runtime.dialling import Dialler
from portway_runtime.endpoints import Endpoint
from portway_runtime.names import Names
from portway_runtime.proxies import Proxy

from portway_carrier.errors import ConnectFailed, ConnectionLost, TlsSettingsError
from portway_carrier.python.core.core import Core
from portway_carrier.python.transport import kernel
from portway_carrier.python.transport.failures import dialling, fail_unless_established, handshake_error
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.transport.tls_contexts import TlsContexts
from portway_carrier.python.transport.tls_transport import TlsTransport
from portway_carrier.values import ClientTls, ServerTls


class StreamFactory:
    """Makes streams, each with a background task that establishes it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._dialler = Dialler(Names())
        self.contexts = TlsContexts()

    def accept(
        self,
        sock: socket.socket,
        tls: ServerTls | None,
        established: Callable[[], None] | None,
        peer: Endpoint | None,
    ) -> PyStream:
        """A server's stream on a connected socket, which it owns from now on; `established` is called when it is
        established. Raises TlsSettingsError, having closed the socket, when `tls` cannot be used."""
        try:
            context = self.contexts.get(tls) if tls is not None else None
        except TlsSettingsError:
            sock.close()
            raise
        stream = PyStream(self._core, peer or _peer_of(sock), tls=tls is not None)
        stream.establishing = self._core.tasks.spawn(
            _accept(self._core, stream, sock, context, established), name="accept", on_cut=sock.close
        )
        return stream

    def connect(self, address: Endpoint, tls: ClientTls | None, via: Proxy | None = None) -> PyStream:
        """A client's stream to `address`, `via` a proxy if there is one. Raises TlsSettingsError when `tls` cannot be
        used."""
        context = self.contexts.get(tls) if tls is not None else None
        stream = PyStream(self._core, address, tls=tls is not None, via_proxy=via is not None)
        if via is None:
            connecting = connect(self._core, stream, self._dialler, tls, context)
        else:
            assert tls is not None
            assert context is not None
            from portway_carrier.python.transport.proxied import connect_through

            connecting = connect_through(self._core, stream, self._dialler, via, context, tls.server_name)
        stream.establishing = self._core.tasks.spawn(connecting, name=f"connect to {address}")
        return stream


async def _accept(
    core: Core,
    stream: PyStream,
    sock: socket.socket,
    context: ssl.SSLContext | None,
    established: Callable[[], None] | None,
) -> None:
    """Establish `stream` on `sock`. On failure the stream is notified and the socket closed."""
    try:
        sock.setblocking(False)
        kernel.keep_alive(sock)
        async with asyncio.timeout(core.limits.handshake if context is not None else None):
            await _establish(core, stream, partial(core.loop.connect_accepted_socket, sock=sock), context)
    except (OSError, ValueError) as error:
        sock.close()
        if context is None:
            stream.failed(ConnectionLost(f"the socket is gone: {error}"))
        else:
            # A peer that leaves during the handshake is not counted: clients race nodes, and drop all but one.
            core.totals.handshakes_failed += not isinstance(error, ConnectionResetError)
            stream.failed(handshake_error(error))
    except asyncio.CancelledError:
        sock.close()
        stream.failed(ConnectionLost("closed here", clean=True))
        raise
    else:
        core.totals.handshakes += context is not None
        if established is not None:
            core.notify(stream.abort, established)
        fail_unless_established(stream)


async def connect(
    core: Core,
    stream: PyStream,
    dialler: Dialler,
    tls: ClientTls | None = None,
    context: ssl.SSLContext | None = None,
) -> None:
    """Establish `stream` by dialling its peer. On failure the stream is notified, and nothing raised. Cancellation
    ends the stream."""
    address, limit = stream.peer, core.limits.handshake
    dial = partial(dialler.open, address.host, address.port, kernel.keep_alive)
    with dialling(stream):
        try:
            async with asyncio.timeout(limit):
                await _establish(core, stream, dial, context, tls.server_name if tls is not None else None)
        except (ssl.SSLError, ConnectionAbortedError, ConnectionResetError) as error:
            stream.failed(handshake_error(error) if tls is not None else ConnectFailed(f"{address}: {error.strerror}"))
        except TimeoutError:
            unresolved = dialler.names.is_looking_up(address.host)
            what = f"no resolver has answered for {address.host}" if unresolved else f"{address} did not answer"
            stream.failed(ConnectFailed(f"{what} within {limit:g} s"))
        except OSError as error:
            refused, exhausted = isinstance(error, ConnectionRefusedError), error.errno in EXHAUSTED
            stream.failed(ConnectFailed(f"{address}: {error.strerror or error}", refused=refused, exhausted=exhausted))


async def _establish(
    core: Core,
    stream: PyStream,
    make_transport: Callable[[Callable[[], asyncio.BufferedProtocol]], Awaitable[object]],
    context: ssl.SSLContext | None,
    server_name: str | None = None,
) -> None:
    """Make the TCP transport and, with a context, TLS on top of it. Raises OSError and ValueError."""
    if context is None:
        await make_transport(lambda: stream)
        return
    tls = TlsTransport(core, context, stream, server_name)
    try:
        await make_transport(lambda: tls)
        await tls.handshake
    except BaseException:
        tls.abort()
        raise


def _peer_of(sock: socket.socket) -> Endpoint:
    try:
        name = sock.getpeername()
    except OSError:  # the connection is gone already; the stream reports it
        return Endpoint("", 0)
    return Endpoint(name[0], name[1]) if isinstance(name, tuple) else Endpoint("", 0)

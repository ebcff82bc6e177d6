"""Establishing a stream through an HTTP proxy: TCP to the proxy, TLS if its URL says so, CONNECT, then TLS to the peer.

A name is looked up by the proxy. What goes wrong is reported by the stream as a CarrierError, which names the proxy.
Not here: what is said to it (portway_runtime.connect_dialogue), which connections go through one (the caller).
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from portway_runtime.connect_dialogue import ConnectDialogue, unreached
from portway_runtime.descriptors import EXHAUSTED
from portway_runtime.dialling import Dialler
from portway_runtime.errors import ProxyFailed
from portway_runtime.proxies import Proxy
from portway_runtime.proxy_tls import context_for, tls_failure

from portway_carrier.errors import ConnectFailed
from portway_carrier.python.core.core import Core
from portway_carrier.python.transport import kernel
from portway_carrier.python.transport.failures import dialling, handshake_error
from portway_carrier.python.transport.stream import PyStream
from portway_carrier.python.transport.tls_transport import TlsTransport


async def connect_through(
    core: Core, stream: PyStream, dialler: Dialler, via: Proxy, context: ssl.SSLContext, server_name: str
) -> None:
    """Establish `stream` by asking `via` for its peer. On failure the stream is notified, and nothing raised.
    Cancellation ends the stream."""
    limit, way = core.limits.handshake, f", through {via}"
    with dialling(stream):
        try:
            async with asyncio.timeout(limit):
                await _establish(core, stream, dialler, via, context, server_name)
        except ProxyFailed as error:
            stream.failed(ConnectFailed(str(error), proxy=True))
        except TimeoutError:
            host = via.address.host
            unresolved = dialler.names.is_looking_up(host)
            what = f": no resolver has answered for {host}" if unresolved else ""
            stream.failed(ConnectFailed(f"no connection within {limit:g} s{way}{what}", proxy=True))
        except OSError as error:
            if error.errno in EXHAUSTED:
                stream.failed(ConnectFailed(f"{via.address}: {error.strerror}", exhausted=True))
            else:
                stream.failed(handshake_error(error, way))


async def _establish(
    core: Core, stream: PyStream, dialler: Dialler, via: Proxy, context: ssl.SSLContext, server_name: str
) -> None:
    """Raises ProxyFailed, and OSError and ValueError of what is not the proxy's."""
    tls = TlsTransport(core, context, stream, server_name)
    tunnel = _Tunnel(core, ConnectDialogue(via, stream.peer), tls, stream.connected)
    try:
        await _reach(core, dialler, via, tunnel)
        await tunnel.answered
        await tls.handshake
    except BaseException:
        tls.abort()
        tunnel.abort()
        raise


async def _reach(core: Core, dialler: Dialler, via: Proxy, tunnel: "_Tunnel") -> None:
    """Connect to the proxy. Raises ProxyFailed, and OSError when this process can open no more sockets."""
    host = via.address.host
    to_proxy = TlsTransport(core, context_for(via), tunnel, host, any_group=True) if via.tls else None
    try:
        await dialler.open(host, via.address.port, kernel.keep_alive, lambda: to_proxy or tunnel)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            raise
        raise unreached(via, error) from None
    if to_proxy is not None:
        try:
            await to_proxy.handshake
        except BaseException as error:
            to_proxy.abort()
            if isinstance(error, OSError):
                raise tls_failure(via, error) from None
            raise


class _Tunnel(asyncio.BufferedProtocol):
    """The protocol of the connection to a proxy until it has answered, and over TLS until its end. Then it is that of
    `above`, for which `connected` is called."""

    def __init__(
        self, core: Core, dialogue: ConnectDialogue, above: TlsTransport, connected: Callable[[], None]
    ) -> None:
        self._core = core
        self._dialogue = dialogue
        self._above = above
        self._connected = connected
        self._transport: asyncio.Transport | None = None
        self._through = False
        self.answered: asyncio.Future[None] = core.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._transport.write(self._dialogue.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._core.read_buffer.room

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._core.read_buffer.room[:nbytes])  # the peer's plaintext is read to the same place
        if self._through:
            self._above.received(data)
        elif not self.answered.done():
            try:
                first = self._dialogue.take(data)
            except ProxyFailed as error:
                self.answered.set_exception(error)
            else:
                if first is not None:
                    self._begin(first)

    def eof_received(self) -> bool:
        if self._through:
            return self._above.eof_received()
        if not self.answered.done():
            self.answered.set_exception(self._dialogue.ended())
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._through:
            self._above.connection_lost(error)
        elif not self.answered.done():
            self.answered.set_exception(self._dialogue.ended())

    def pause_writing(self) -> None:
        if self._through:
            self._above.pause_writing()

    def resume_writing(self) -> None:
        if self._through:
            self._above.resume_writing()

    def abort(self) -> None:
        if not self.answered.cancel() and not self.answered.cancelled():
            self.answered.exception()  # seen, or of no interest any more
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, first: bytes) -> None:
        """The connection is the peer's from now on; `first` came from there."""
        assert self._transport is not None
        self._through = True
        self.answered.set_result(None)
        self._connected()
        if not isinstance(self._transport, TlsTransport):
            self._transport.set_protocol(self._above)
        self._above.connection_made(self._transport)
        if first:
            self._above.received(first)

"""A way through an HTTP proxy for gRPC, which dials by itself: a local socket whose one connection leads there.

gRPC's own proxying follows other rules than everything else does (docs/decisions/0072). So CONNECT is done first, where
a refusal can be told, and gRPC gets a socket that only this process can use.

Here: the connection to the proxy, the local socket, and bytes both ways, still encrypted for the registry. Not here:
what is said to the proxy (connect_dialogue.py), which connections go through one (proxies.py).
"""

import _socket
import asyncio
import os
import secrets
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, cast

from portway_runtime.connect_dialogue import ConnectDialogue, unreached
from portway_runtime.dialling import Dialler, lend
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ProxyFailed
from portway_runtime.event_loops import new_event_loop
from portway_runtime.names import Names
from portway_runtime.os_threads import Event
from portway_runtime.proxies import Proxy
from portway_runtime.threads import start_thread

if TYPE_CHECKING:
    import tempfile  # imported late: Linux needs none

# Seconds for connecting to the proxy and for its answer, before the time of the call itself.
CONNECT_TIMEOUT: Final = 3.0
# Seconds. Closing waits for nothing outside this process.
_CLOSE_TIMEOUT: Final = 2.0
# Others may see the address (/proc/net/unix) and connect, to be closed at once.
_BACKLOG: Final = 16
_TURNS_TO_CLOSE: Final = 20  # of the loop, until aborted transports have reported their end
_HIGH_WATER: Final = 128 * 1024  # bytes that wait for one side, above which the other is not read
_CREDENTIALS: Final = struct.Struct("=3i")  # struct ucred: pid, uid, gid

Options = tuple[tuple[str, str], ...]


@contextmanager
def open_door(proxy: Proxy, target: Endpoint, within: float = CONNECT_TIMEOUT) -> Iterator[tuple[str, Options]]:
    """For a thread that may block: what a channel to `target` is made with, usable while the block runs. The
    certificate is to be for the target's name. Raises ProxyFailed, after `within` seconds at the latest, and NoThread.
    """
    door = _DoorThread(proxy, target, within)
    try:
        yield door.address(), (("grpc.ssl_target_name_override", target.host),)
    finally:
        door.close()


class _DoorThread:
    """A door on a thread and an event loop of its own."""

    def __init__(self, proxy: Proxy, target: Endpoint, within: float) -> None:
        self._proxy, self._target, self._within = proxy, target, within
        self._known = Event()
        self._ended = Event()
        self._address = ""
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        start_thread(self._run, "portway proxy")

    def address(self) -> str:
        """gRPC's target. Raises ProxyFailed."""
        self._known.wait()
        if self._failure is not None:
            raise self._failure
        return self._address

    def close(self) -> None:
        self._known.wait()
        if self._loop is not None and self._closing is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._closing.set)
        self._ended.wait(_CLOSE_TIMEOUT)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._main())
        except OSError as error:
            self._failure = ProxyFailed(f"{self._proxy}, cannot be used now: {error.strerror or error}")
        except Exception as error:
            self._failure = error
        finally:
            self._known.set()
            self._ended.set()

    async def _main(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        door = _Door(self._proxy, self._target)
        try:
            await door.open(self._within)
            self._address = door.address
            self._known.set()
            await self._closing.wait()
        finally:
            await door.close()


class _Door:
    """A connection through the proxy, and the local socket that leads to it. Used on one loop."""

    def __init__(self, proxy: Proxy, target: Endpoint) -> None:
        self._proxy = proxy
        self._far = _Far(ConnectDialogue(proxy, target))
        self._near = _Side()
        self._far.other, self._near.other = self._near, self._far
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._listener: _socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.address = ""

    async def open(self, within: float) -> None:
        """Raises ProxyFailed, and OSError when there is no local socket to be had."""
        dialler, proxy = Dialler(Names()), self._proxy
        host = proxy.address.host
        try:
            async with asyncio.timeout(within):
                try:
                    await dialler.open(host, proxy.address.port, lambda _: None, lambda: self._far)
                except (OSError, UnicodeError) as error:
                    raise unreached(proxy, error) from None
                if proxy.tls:
                    await self._begin_tls()
                await self._far.ask()
        except TimeoutError:
            unresolved = dialler.names.is_looking_up(host)
            what = f"no resolver has answered for {host}" if unresolved else "it has not answered"
            raise ProxyFailed(f"{proxy}, gives no connection: {what} within {within:g} s") from None
        self._listen()

    async def _begin_tls(self) -> None:
        """Raises ProxyFailed."""
        from portway_runtime.proxy_tls import context_for, tls_failure

        plain = self._far.transport
        assert plain is not None
        context, host = context_for(self._proxy), self._proxy.address.host
        loop = asyncio.get_running_loop()
        try:
            over_tls = await loop.start_tls(plain, self._far, context, server_hostname=host)
        except OSError as error:
            plain.abort()
            self._far.transport = None
            raise tls_failure(self._proxy, error) from None
        assert over_tls is not None
        self._far.connection_made(over_tls)

    def _listen(self) -> None:
        # Not socket.socket, which a program may have replaced by one that waits in its own threads.
        listener = self._listener = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        if sys.platform == "linux":
            name = f"portway-{secrets.token_hex(16)}"  # an abstract address: on no disk, and gone with the socket
            listener.bind(f"\0{name}")
            self.address = f"unix-abstract:{name}"
        else:
            import tempfile

            self._folder = tempfile.TemporaryDirectory(prefix="portway-")  # for this user alone
            path = f"{self._folder.name}/door"
            listener.bind(path)
            self.address = f"unix:{path}"
        listener.listen(_BACKLOG)
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]  # what socket.socket calls
        except BlockingIOError:
            return
        except OSError:  # no descriptor can be had: the call fails, and says so
            self._stop_listening()
            self._far.abort()
            return
        sock = _socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        sock.setblocking(False)
        if not _is_ours(sock):
            sock.close()
            return
        self._stop_listening()
        self._accepting = asyncio.ensure_future(self._use(cast(socket.socket, sock)))

    async def _use(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: self._near, lend(loop, sock))
        except OSError:
            self._far.abort()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None

    async def close(self) -> None:
        self._stop_listening()
        if self._accepting is not None:
            await asyncio.wait([self._accepting])
        self._near.abort()
        self._far.abort()
        turns = _TURNS_TO_CLOSE
        while turns and (self._near.transport is not None or self._far.transport is not None):
            await asyncio.sleep(0)
            turns -= 1
        if self._folder is not None:
            self._folder.cleanup()


class _Side(asyncio.Protocol):
    """One of the two connections; what it receives goes to `other`. The end of one is the end of both."""

    def __init__(self) -> None:
        self.other: _Side
        self.transport: asyncio.Transport | None = None
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.other.partner_made()

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        self.other.close()

    def pause_writing(self) -> None:
        self.other.pause(True)

    def resume_writing(self) -> None:
        self.other.pause(False)

    def partner_made(self) -> None:
        """The other side has a connection now."""
        if self._over:
            self.other.close()

    def pause(self, paused: bool) -> None:
        if self.transport is not None and not self.transport.is_closing():
            (self.transport.pause_reading if paused else self.transport.resume_reading)()

    def close(self) -> None:
        """Close after what was written."""
        self._over = True
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Far(_Side):
    """The connection to the proxy."""

    def __init__(self, dialogue: ConnectDialogue) -> None:
        super().__init__()
        self._dialogue = dialogue
        self._answer: asyncio.Future[None] | None = None
        self._first = b""  # from behind the proxy, before there is somebody to take it

    async def ask(self) -> None:
        """Send CONNECT and wait for the answer. Raises ProxyFailed."""
        if self.transport is None:
            raise self._dialogue.ended()
        self._answer = asyncio.get_running_loop().create_future()
        self.transport.write(self._dialogue.request)
        await self._answer

    def data_received(self, data: bytes) -> None:
        if self.other.transport is not None:
            super().data_received(data)
        elif self._answer is None or self._answer.done():
            self._first += data
        else:
            self._take(data, self._answer)

    def _take(self, data: bytes, answer: "asyncio.Future[None]") -> None:
        try:
            first = self._dialogue.take(data)
        except ProxyFailed as error:
            answer.set_exception(error)
            self.abort()
            return
        if first is not None:
            self._first = first
            self.pause(True)
            answer.set_result(None)

    def partner_made(self) -> None:
        first, self._first = self._first, b""
        if first:
            super().data_received(first)
        self.pause(False)
        super().partner_made()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._dialogue.ended())


def _is_ours(sock: "_socket.socket") -> bool:
    """Whether this process has connected it. Where the system does not tell, only this user could have."""
    if sys.platform != "linux":
        return True
    try:
        pid, _, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    except OSError:
        return False
    return bool(pid == os.getpid())

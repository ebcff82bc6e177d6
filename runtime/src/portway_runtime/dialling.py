"""Dialling a host that has several addresses: the next one is tried before the last one has failed (RFC 8305, happy
eyeballs), so that an address family that leads nowhere costs a moment and not the whole time limit.

Here: the race of any attempts, and TCP connections by it. Not here: the order of a name's addresses (names.py), TLS,
time limits of the whole.
"""

import _socket
import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar, cast

from portway_runtime.bounded import BoundedMap
from portway_runtime.descriptors import EXHAUSTED
from portway_runtime.names import Address, Names

T = TypeVar("T")
C = TypeVar("C")

# Seconds until the next address is tried beside one that has not answered: "Connection Attempt Delay" of RFC 8305 §5.
ATTEMPT_DELAY: Final = 0.25
# Hosts of which it is remembered which address answered last.
_KEPT: Final = 1024
_IN_PROGRESS: Final = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK)
# A network that leads nowhere says less than a machine that answers with a refusal.
_NO_WAY: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def race(
    candidates: Sequence[C],
    attempt: Callable[[C], Awaitable[T]],
    discard: Callable[[T], object],
    *,
    delay: float = ATTEMPT_DELAY,
) -> T:
    """The result of the first attempt that succeeds. Attempts begin in order: the next one as soon as one has failed,
    or `delay` seconds after the last one began. Those that lose are cancelled, and `discard` gets what they have still
    achieved.

    Raises the OSError of the candidate that says most when all fail, and any other error of an attempt at once.
    Cancelled, it leaves nothing behind.
    """
    assert candidates
    if len(candidates) == 1:
        return await attempt(candidates[0])
    loop = asyncio.get_running_loop()
    left = list(reversed(candidates))
    running: dict[asyncio.Future[T], float] = {}
    failures: list[OSError] = []
    won: T
    try:
        while left or running:
            if left:
                running[asyncio.ensure_future(attempt(left.pop()))] = loop.time()
            until = max(running.values()) + delay
            while running:
                pause = max(0.0, until - loop.time()) if left else None
                ended, _ = await asyncio.wait(running, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                for one in ended:
                    error = one.exception()
                    if error is None:
                        won = one.result()
                        del running[one]
                        return won
                    del running[one]
                    if not isinstance(error, OSError) or error.errno in EXHAUSTED:
                        raise error
                    failures.append(error)
                if left and (ended or loop.time() >= until):
                    break
    finally:
        for one in running:
            one.cancel()
        if running:
            await asyncio.wait(running)
        for one in running:
            if not one.cancelled() and one.exception() is None:
                discard(one.result())
    raise next((error for error in failures if error.errno not in _NO_WAY), failures[0])


class Dialler:
    """Makes TCP connections, on the running event loop, and remembers which address of a host answered last."""

    def __init__(self, names: Names, *, delay: float = ATTEMPT_DELAY) -> None:
        self._loop = asyncio.get_running_loop()
        self.names = names
        self._delay = delay
        self._answered: BoundedMap[str, Address] = BoundedMap(_KEPT)

    async def open(
        self,
        host: str,
        port: int,
        prepare: Callable[[socket.socket], object],
        make_protocol: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        """Make a transport on a connection to a name or an address; `prepare` gets its socket before. Raises OSError;
        UnicodeError for what is no name. Cancelled, it leaves no connection behind but one that its protocol has."""
        sock = await self._connect_to(host, port)
        try:
            prepare(sock)
            sock = lend(self._loop, sock)
            await self._loop.create_connection(make_protocol, sock=sock)
        except BaseException:
            sock.close()
            raise

    async def _connect_to(self, host: str, port: int) -> socket.socket:
        addresses = await self.names.addresses(host)
        if len(addresses) == 1:
            try:
                return await self._connect(addresses[0], port)
            except OSError:
                self.names.forget(host)
                raise
        # RFC 8305 §4: an address that was used before comes first. Without it each connection would wait anew for one
        # that does not answer.
        addresses.sort(key=lambda address: address != self._answered.get(host))
        try:
            address, sock = await race(
                addresses,
                lambda address: self._connected(address, port),
                lambda connected: connected[1].close(),
                delay=self._delay,
            )
        except OSError:
            self._answered.pop(host, None)
            self.names.forget(host)
            raise
        self._answered[host] = address
        return sock

    async def _connected(self, address: Address, port: int) -> tuple[Address, socket.socket]:
        return address, await self._connect(address, port)

    async def _connect(self, address: Address, port: int) -> socket.socket:
        # Not socket.socket, which a program may have replaced by one that waits in its own threads.
        sock = cast(socket.socket, _socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        try:
            sock.setblocking(False)
            await self._established(sock, address.with_port(port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _established(self, sock: socket.socket, name: tuple[str, int] | tuple[str, int, int, int]) -> None:
        """Connect. Raises OSError."""
        failure = sock.connect_ex(name)
        if failure in _IN_PROGRESS:
            failure = sock.connect_ex(name)  # this machine answers within the first call
        while failure in _IN_PROGRESS:
            writable: asyncio.Future[None] = self._loop.create_future()
            descriptor = sock.fileno()
            self._loop.add_writer(descriptor, _settle, writable)
            try:
                await writable
            finally:
                self._loop.remove_writer(descriptor)
            failure = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure and failure != errno.EISCONN:
            raise OSError(failure, os.strerror(failure))


def lend(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> socket.socket:
    """The socket, in the form in which a transport of this loop is to be given it."""
    if isinstance(loop, asyncio.BaseEventLoop):
        return sock
    return cast(socket.socket, _LentDescriptor(sock))


class _LentDescriptor:
    """A descriptor for uvloop, which takes it with `fileno` and closes it itself. Nobody else may, not even when this
    is freed: the number may be somebody else's by then."""

    def __init__(self, sock: socket.socket) -> None:
        self.family, self.type, self.proto = sock.family, sock.type, sock.proto
        self.taken = False
        self._descriptor = sock.detach()

    def fileno(self) -> int:
        self.taken = True
        return self._descriptor

    def setblocking(self, flag: bool) -> None:
        """It does not block already."""

    def detach(self) -> int:
        """uvloop has closed it: what it was taken for was given up."""
        return self._descriptor

    def close(self) -> None:
        if not self.taken:
            self.taken = True
            os.close(self._descriptor)


def _settle(writable: "asyncio.Future[None]") -> None:
    if not writable.done():
        writable.set_result(None)

"""An HTTP proxy that does what a test says: what it was asked, what it answers, when it breaks.

Here: CONNECT, on a thread of its own, with TLS or without. Proxies that no one here wrote are tested beside it.
"""

import asyncio
import base64
import ssl
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Self

from portway_testkit.links.stream_server import StreamServer, drop
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import PATIENCE

_CHUNK = 65_536
_HEAD_END = b"\r\n\r\n"
REGISTRY, NODE = "registry.test", "node.test"  # names that the proxy alone knows, with `hosts` like these
HOSTS = {REGISTRY: "127.0.0.1", NODE: "127.0.0.1"}
OPEN = b"HTTP/1.1 200 Connection established\r\n\r\n"
NO_REQUEST = b"HTTP/1.1 400 Bad Request\r\n\r\n"
WANTS_LOGIN = b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n'


class ConnectProxy:
    """`with ConnectProxy() as proxy:` listens on `proxy.port`.

    answer: sent in place of a connection; b"" closes without an answer. answers: the same for one `host:port`. silent:
    nothing is answered, and nothing closed; silent_for: the same for one host. hosts: where names lead that only this
    proxy knows. login: the one that it wants, as in a URL. delay: seconds before what was received is passed on.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, host: str = "127.0.0.1") -> None:
        self.answer: bytes | None = None
        self.silent = False
        self.silent_for = "nobody"
        self.login = ""
        self.delay = 0.0
        self.answers: dict[str, bytes] = {}
        self.hosts: dict[str, str] = {}
        self.heads: list[str] = []  # of each request
        self.port = free_port()
        self._tls = tls
        self._host = host
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"

    @property
    def asked(self) -> list[str]:
        """`host:port` of each request."""
        return [head.split(" ", 2)[1] for head in self.heads]

    @property
    def connections(self) -> int:
        """Those that are open now, both ends of each."""
        return len(self._writers)

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name="proxy")
        self._thread.start()
        started.result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Reset every connection and listen no more. `__enter__` starts it again on the same port."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(PATIENCE)
            self._thread = None

    async def _serve(self, started: "Future[None]") -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with StreamServer(self._accepted, host=self._host, port=self.port, tls=self._tls):
            started.set_result(None)
            await self._stop.wait()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            self._writers.discard(writer)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        if first != b"C":
            writer.write(NO_REQUEST)
            await reader.read()
            return
        head = (first + await reader.readuntil(_HEAD_END)).decode()
        self.heads.append(head)
        if self.silent or self.silent_for in head:
            await reader.read()  # the client closes
            return
        answer = self.answers.get(head.split(" ", 2)[1], self.answer)
        if self.login and f"Basic {base64.b64encode(self.login.encode()).decode()}\r\n" not in head:
            answer = WANTS_LOGIN
        if answer is not None:
            writer.write(answer)
            await writer.drain()
            if answer:
                await reader.read()  # the client closes
            return
        host, _, port = head.split(" ", 2)[1].rpartition(":")
        host = host.strip("[]")
        there, target = await asyncio.open_connection(self.hosts.get(host, host), int(port))
        self._writers.add(target)
        try:
            writer.write(OPEN)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._move(reader, target))
                both.create_task(self._move(there, writer))
        except* OSError:
            pass
        finally:
            drop(target)
            self._writers.discard(target)

    async def _move(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()

"""Thousands of clients that arrive at the same time: each a control lane and one tunnel, by the client's rules.

Here: TLS connections from many loopback addresses, HELLO and BIND, retries spread as the client spreads them. Not here:
data lanes and visitors; what the node does.
"""

import asyncio
import socket
import ssl
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Final, Self

import uvloop
from portway.engine.failures import hint_seconds, pauses, spread_hint
from portway_proto.v1.lane_pb2 import Bind, Failure, Goaway, Presence
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.limits import HEADER_SIZE, LINK_ALPN, PROTOCOL_VERSION
from portway_proto.wire.statements import SigningKey

from portway_testkit.clusters.hand_grants import Grants
from portway_testkit.visitors.visiting import tls_context

_PATIENCE: Final = 100.0


class Storm:
    """`with Storm(...) as storm:` starts the clients; `wait` returns when all are attached; they leave at the end."""

    def __init__(self, clients: int, at: tuple[str, int], server_name: str, ca: Path, grants: Grants) -> None:
        self._clients = clients
        self._at = at
        self._server_name = server_name
        self._tls = tls_context(ca, LINK_ALPN)
        self._node = server_name.partition(".")[0]
        self._grants = grants.several(clients)
        self._keys = [SigningKey() for _ in range(clients)]
        self._thread = threading.Thread(target=self._run, name="storm")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave = asyncio.Event()
        self.back_after: list[float] = []  # seconds of each client until it was attached
        self.turned_away: Counter[str] = Counter()  # how often, by "closed" and "later"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(_PATIENCE)

    @property
    def over(self) -> bool:
        return len(self.back_after) == self._clients or not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._all())

    async def _all(self) -> None:
        self._loop = asyncio.get_running_loop()
        began = time.monotonic()
        async with asyncio.TaskGroup() as clients:
            for number in range(self._clients):
                clients.create_task(self._client(number, began))

    async def _client(self, number: int, began: float) -> None:
        reader, writer = await self._come(number)
        self.back_after.append(time.monotonic() - began)
        staying = asyncio.ensure_future(_stay(reader, writer))
        await self._leave.wait()
        staying.cancel()
        writer.write(encode_frame(FrameType.GOAWAY, Goaway().SerializeToString()))
        await _close(writer)

    async def _come(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        later = 0.0
        for pause in pauses():
            await asyncio.sleep(max(pause, later))
            try:
                reader, writer = await self._connect(number)
            except OSError:
                self.turned_away["closed"] += 1
                continue
            try:
                later = await self._attach(number, reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                self.turned_away["closed"] += 1
            else:
                if not later:
                    return reader, writer
                self.turned_away["later"] += 1
            await _close(writer)
        raise AssertionError("pauses have no end")

    async def _connect(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.bind((f"127.8.{number // 250}.{number % 250 + 1}", 0))
            await asyncio.get_running_loop().sock_connect(sock, self._at)
            return await asyncio.open_connection(sock=sock, ssl=self._tls, server_hostname=self._server_name)
        except BaseException:
            sock.close()
            raise

    async def _attach(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        """0 if the tunnel is bound, else the seconds that the node asks the client to wait."""
        grant, certificate = self._grants[number], writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        hello = grant.hello(self._node, certificate, version=PROTOCOL_VERSION)
        writer.write(encode_frame(FrameType.HELLO, hello.SerializeToString()))
        frame_type, payload = await _frame(reader, writer)
        if frame_type == FrameType.FAIL:
            return spread_hint(hint_seconds(Failure.FromString(payload).retry_after_ms))
        assert frame_type == FrameType.WELCOME, frame_type
        bind = Bind(request=1, claim=grant.claim(self._keys[number], 1, self._node).encoded)
        presence = Presence(statement=grant.present(self._node).encoded)
        writer.write(encode_frame(FrameType.PRESENCE, presence.SerializeToString()))
        writer.write(encode_frame(FrameType.BIND, bind.SerializeToString()))
        frame_type, payload = await _frame(reader, writer)
        assert frame_type == FrameType.BOUND, (frame_type, payload)
        return 0.0


async def _frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
    """The next frame that is not a PING."""
    while True:
        header = await reader.readexactly(HEADER_SIZE)
        payload = await reader.readexactly(int.from_bytes(header[1:]))
        if header[0] != FrameType.PING:
            return header[0], payload
        writer.write(encode_frame(FrameType.PONG, payload))


async def _stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer PINGs."""
    while True:
        await _frame(reader, writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    try:
        await writer.wait_closed()
    except (OSError, ssl.SSLError):
        pass  # the node has closed it already

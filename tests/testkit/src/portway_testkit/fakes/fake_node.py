"""A relay node that does what a test says: the client's peer, on the real carrier and real sockets.

It joins visitors to the data lanes that it parks. It has no mesh, registry or ingress: `visit` is a visitor. It runs on
a thread of its own, so that blocking tests can use it. Not here: what it answers (node_answers.py).
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Self, TypeVar

import trustme
from portway_carrier.contract import Carrier, Stream, Visit, VisitEnd
from portway_carrier.errors import CarrierError
from portway_carrier.select import make_carrier
from portway_carrier.values import Limits, PoolLimits
from portway_proto.v1 import lane_pb2
from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.identities import node_name
from portway_runtime.tasks import Tasks

from portway_testkit.authority import tls_of
from portway_testkit.fakes.node_answers import Greeter, NodeAnswers
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import PATIENCE

T = TypeVar("T")


class FakeNode(NodeAnswers):
    """`with FakeNode(name, authority) as node:` listens on loopback, with a certificate of that CA."""

    def __init__(self, name: str, authority: trustme.CA) -> None:
        self._tls = replace(tls_of(authority, node_name(name)), alpn=LINK_ALPN)
        super().__init__(name, self._tls.certificate, lambda control: self._carrier.pool(control, PoolLimits()))
        self.port = free_port()
        self.silent = False  # accepts connections and does not answer
        self.handshake_delay = 0.0  # seconds before it answers a connection
        self.via: int | None = None  # the port that a registry names for it, if it is not its own
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._carrier: Carrier
        self._stop: asyncio.Event

    @property
    def server_name(self) -> str:
        return node_name(self.name)

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name=self.name)
        self._thread.start()
        started.result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything at once, as SIGKILL does. `__enter__` starts it again on the same port."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        self._thread = None
        self.sessions.clear()
        self.tunnels.clear()

    def drop_connections(self) -> None:
        """Reset every control lane and data lane."""
        self._do(self._drop)

    def goaway(self, failure: lane_pb2.Failure) -> None:
        """Send GOAWAY to every client."""
        self._send_all(FrameType.GOAWAY, lane_pb2.Goaway(failure=failure).SerializeToString())

    def fail(self, failure: lane_pb2.Failure) -> None:
        """End every session with FAIL."""

        async def fail() -> None:
            for session in list(self.sessions.values()):
                if session.control is not None:
                    session.control.fail(failure.SerializeToString())

        self._do(fail)

    def unbound(self, label: str, failure: lane_pb2.Failure, claim: bytes = b"") -> None:
        """Send UNBOUND for a tunnel; `claim`: what owns it."""
        self.tunnels.pop(label, None)
        unbound = lane_pb2.Unbound(label=label, failure=failure, claim=claim)
        self._send_all(FrameType.UNBOUND, unbound.SerializeToString())

    def send(self, frame_type: int, payload: bytes) -> None:
        """Send any frame on every control lane."""
        self._send_all(frame_type, payload)

    def visit(self, label: str) -> tuple[socket.socket, "Future[VisitEnd]"]:
        """A visitor's socket, joined to the label's session, and the visit's end."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        ours.settimeout(PATIENCE)
        ended: Future[VisitEnd] = Future()

        async def join() -> None:
            stream = self._carrier.accept(theirs, None)
            opening = Opening(label, "192.0.2.1", 40000)
            self._carrier.join(stream, self.tunnels[label].session.pool, opening, visit_over)

        def visit_over(visit: Visit, end: VisitEnd) -> None:
            ended.set_result(end)
            if end.visitor is not None:
                end.visitor.abort()

        self._do(join)
        return ours, ended

    def _do(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(PATIENCE)

    def _send_all(self, frame_type: int, payload: bytes) -> None:
        async def send() -> None:
            for session in self.sessions.values():
                if session.control is not None:
                    session.control.send(frame_type, payload)

        self._do(send)

    async def _drop(self) -> None:
        for session in list(self.sessions.values()):
            if session.control is not None:
                session.control.abort()
            session.pool.close()
            session.pool = self._make_pool(None)

    async def _serve(self, started: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._carrier = make_carrier(Limits())
        tasks = Tasks(self.name)
        listener = socket.create_server(("127.0.0.1", self.port))
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._accept, listener, tasks)
        started.set_result(None)
        await self._stop.wait()
        loop.remove_reader(listener)
        listener.close()
        await tasks.close()
        await self._carrier.close()

    def _accept(self, listener: socket.socket, tasks: Tasks) -> None:
        """A reader callback, not a task: a task that is cancelled when a connection has just come would lose it."""
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return
        sock.setblocking(False)
        if self.silent:
            self.happened("silent")
            tasks.spawn(asyncio.Event().wait(), name="say nothing", on_cut=sock.close)
        elif self.handshake_delay:
            tasks.spawn(self._greet_late(sock, tasks), name="greet late", on_cut=sock.close)
        else:
            tasks.spawn(self._greet(self._carrier.accept(sock, self._tls)), name="greet")

    async def _greet_late(self, sock: socket.socket, tasks: Tasks) -> None:
        await asyncio.sleep(self.handshake_delay)
        tasks.spawn(self._greet(self._carrier.accept(sock, self._tls)), name="greet")

    async def _greet(self, stream: Stream) -> None:
        try:
            await stream.ready()
            self._carrier.lane(stream, Side.OPENER, Greeter(self))
        except CarrierError as error:
            self.happened("handshake failed", str(error))

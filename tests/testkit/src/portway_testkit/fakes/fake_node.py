"""A relay node that does what a test says: the client's peer, on the real carrier and real sockets.

It binds labels with a valid proof, parks data lanes and joins visitors to them. It has no mesh, registry or ingress:
`visit` is a visitor. It runs on a thread of its own, so that blocking tests can use it.
"""

import asyncio
import secrets
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from portway_carrier.contract import Carrier, Lane, Pool, Stream, Visit, VisitEnd
from portway_carrier.errors import CarrierError
from portway_carrier.select import make_carrier
from portway_carrier.values import Limits, PoolLimits, ServerTls
from portway_proto.v1 import lane_pb2
from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.labels import verify_proof
from portway_proto.wire.lane import Side
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.tasks import Tasks

T = TypeVar("T")

# Seconds: more than anything that a test waits for takes on a busy machine.
PATIENCE = 15.0


@dataclass
class FakeTunnel:
    """A tunnel that is bound at this node."""

    label: str
    epoch: int
    ticket: bytes
    session: "FakeSession"


@dataclass
class FakeSession:
    """A client's session; `control` is None while it is detached."""

    id: bytes
    secret: bytes
    control: Lane | None
    pool: Pool
    grant: str
    labels: set[str] = field(default_factory=set)


class FakeNode:
    """`with FakeNode(name, tls) as node:` listens on loopback; what happened is in `events`, in order."""

    def __init__(self, name: str, tls: ServerTls, *, region: str = "test", port: int = 0) -> None:
        self.name = name
        self.region = region
        self.domain = "localhost"
        self.port = port
        self.events: list[tuple[Any, ...]] = []
        self._happened_at: list[float] = []  # each of them
        self.sessions: dict[bytes, FakeSession] = {}
        self.tunnels: dict[str, FakeTunnel] = {}
        self.refuse_hello: lane_pb2.Failure | None = None
        self.refuse_bind: lane_pb2.Failure | None = None
        self.accepted_binds = 0  # tunnels that it binds nevertheless
        self.refuse_park: lane_pb2.Failure | None = None
        self.silent = False  # accepts connections and does not answer
        self.resumes = True
        self.lose_answers = 0  # number of BINDs that are accepted and answered by dropping the connection
        self.ignore_binds = False
        self.host_in_bound: str | None = None  # in place of the tunnel's own
        self.clock_offset = 0.0  # seconds by which its clock is ahead
        self.via: int | None = None  # the port that a registry names for it, if it is not its own
        self._tls = ServerTls(tls.certificate, tls.key, alpn=LINK_ALPN)
        self._changed = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._carrier: Carrier
        self._stop: asyncio.Event

    @property
    def server_name(self) -> str:
        return f"{self.name}.node.portway.internal"

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

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` is true; it is checked after each event. Raises AssertionError."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), f"it never came to be; happened: {self.events}"

    def count(self, what: str) -> int:
        return sum(1 for event in self.events if event[0] == what)

    def times(self, what: str) -> list[float]:
        """When the event happened, in seconds. A thread that waits for it may run later."""
        return [at for event, at in zip(self.events, self._happened_at, strict=True) if event[0] == what]

    def epochs(self, label: str) -> list[int]:
        """The epochs with which it bound the label, in order."""
        return [event[2] for event in self.events if event[0] == "bind" and event[1] == label]

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

    def unbound(self, label: str, failure: lane_pb2.Failure) -> None:
        """Send UNBOUND for a tunnel."""
        self.tunnels.pop(label, None)
        self._send_all(FrameType.UNBOUND, lane_pb2.Unbound(label=label, failure=failure).SerializeToString())

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

    def happened(self, *event: Any) -> None:
        with self._changed:
            self.events.append(event)
            self._happened_at.append(time.monotonic())
            self._changed.notify_all()

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
            session.pool = self._carrier.pool(None, PoolLimits())

    async def _serve(self, started: "Future[None]") -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._carrier = make_carrier(Limits())
        tasks = Tasks(self.name)
        listener = socket.create_server(("127.0.0.1", self.port))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
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
        else:
            tasks.spawn(self._greet(self._carrier.accept(sock, self._tls)), name="greet")

    async def _greet(self, stream: Stream) -> None:
        try:
            await stream.ready()
            self._carrier.lane(stream, Side.OPENER, _Greeter(self))
        except CarrierError as error:
            self.happened("handshake failed", str(error))

    # Lane events.

    def greeted(self, lane: Lane, frame_type: int, payload: bytes) -> FakeSession | None:
        """The session of a control lane's first frame; None for a data lane, which is parked."""
        if frame_type == FrameType.PARK:
            park = lane_pb2.Park.FromString(payload)
            session = self.sessions.get(park.session_id)
            refusal = self.refuse_park
            if session is None or session.secret != park.session_secret:
                refusal = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_SESSION)
            if session is None or refusal is not None:
                assert refusal is not None
                lane.fail(refusal.SerializeToString())
                self.happened("park refused")
            else:
                session.pool.park(lane)
                self.happened("park")
            return None
        return self._hello(lane, lane_pb2.Hello.FromString(payload))

    def _hello(self, lane: Lane, hello: lane_pb2.Hello) -> FakeSession | None:
        if self.refuse_hello is not None:
            self.happened("hello refused")
            lane.fail(self.refuse_hello.SerializeToString())
            return None
        session = self.sessions.get(hello.session_id) if self.resumes else None
        resumed = session is not None and session.secret == hello.session_secret
        if session is None or not resumed:
            session = FakeSession(
                secrets.token_bytes(16),
                secrets.token_bytes(16),
                lane,
                self._carrier.pool(lane, PoolLimits()),
                hello.grant,
            )
            self.sessions[session.id] = session
        session.control = lane
        session.pool.attach_control(lane)
        welcome = lane_pb2.Welcome(
            session_id=session.id,
            session_secret=session.secret,
            resumed=resumed,
            node_time_ms=int((time.time() + self.clock_offset) * 1000),
            node=self.name,
            region=self.region,
            resume_seconds=60,
            max_lanes=256,
        )
        self.happened("hello", resumed)
        lane.send(FrameType.WELCOME, welcome.SerializeToString())
        return session

    def told(self, session: FakeSession, frame_type: int, payload: bytes) -> None:
        """A frame on a control lane."""
        if frame_type == FrameType.BIND:
            self._bind(session, lane_pb2.Bind.FromString(payload))
        elif frame_type == FrameType.UNBIND:
            label = lane_pb2.Unbind.FromString(payload).label
            tunnel = self.tunnels.get(label)
            if tunnel is not None and tunnel.session is session:
                del self.tunnels[label]
            session.labels.discard(label)
            self.happened("unbind", label)
        elif frame_type == FrameType.MOVED:
            moved = lane_pb2.Moved.FromString(payload)
            assert verify_proof(moved.label, moved.epoch, moved.proof)
            self.happened("moved", moved.label, moved.node, moved.epoch)
        elif frame_type == FrameType.GOAWAY:
            self._end_session(session)
            self.happened("goaway")

    def _bind(self, session: FakeSession, bind: lane_pb2.Bind) -> None:
        lane = session.control
        assert lane is not None
        if self.ignore_binds:
            self.happened("bind ignored", bind.label, bind.epoch)
            return
        known = self.tunnels.get(bind.label)
        failure = self.refuse_bind if len(self.tunnels) >= self.accepted_binds else None
        if failure is None and not verify_proof(bind.label, bind.epoch, bind.proof):
            failure = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_PROOF)
        again = known is not None and known.session is session and known.epoch == bind.epoch
        if failure is None and known is not None and known.epoch >= bind.epoch and not again:
            failure = lane_pb2.Failure(code=lane_pb2.FAILURE_CODE_EPOCH)
        if failure is not None:
            refused = lane_pb2.BindRefused(request=bind.request, failure=failure)
            self.happened("bind refused", bind.label, bind.epoch)
            lane.send(FrameType.BIND_REFUSED, refused.SerializeToString())
            return
        raw = bind.options.unencrypted
        ticket = bind.ticket or (f"20001 {bind.label}".encode() if raw else b"")
        with self._changed:  # the tunnel and its event appear together, and before the answer
            self.tunnels[bind.label] = FakeTunnel(bind.label, bind.epoch, ticket, session)
            session.labels.add(bind.label)
            self.happened("bind", bind.label, bind.epoch)
        bound = lane_pb2.Bound(
            request=bind.request,
            host=f"{bind.label}.{self.region}.{self.domain}" if self.host_in_bound is None else self.host_in_bound,
            port=self.port,
            unencrypted_host="127.0.0.1" if raw else "",
            unencrypted_port=20001 if raw else 0,
            ticket=ticket,
        )
        if self.lose_answers:
            self.lose_answers -= 1
            lane.abort()
        else:
            lane.send(FrameType.BOUND, bound.SerializeToString())

    def lost(self, session: FakeSession, lane: Lane, error: CarrierError) -> None:
        if session.control is lane:
            session.control = None
            session.pool.attach_control(None)
            self.happened("lost", str(error))

    def _end_session(self, session: FakeSession) -> None:
        self.sessions.pop(session.id, None)
        for label in session.labels:
            self.tunnels.pop(label, None)
        session.pool.retire()


class _Greeter:
    """The events of one lane that a client opened."""

    def __init__(self, node: FakeNode) -> None:
        self._node = node
        self._session: FakeSession | None = None

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if self._session is None:
            self._session = self._node.greeted(lane, frame_type, payload)
        else:
            self._node.told(self._session, frame_type, payload)

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.abort()

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        if self._session is not None:
            self._node.lost(self._session, lane, error)


def failure(code: int, message: str = "", retry_after_ms: int = 0) -> lane_pb2.Failure:
    """A Failure for refusals and GOAWAY."""
    return lane_pb2.Failure(code=lane_pb2.FailureCode.ValueType(code), message=message, retry_after_ms=retry_after_ms)

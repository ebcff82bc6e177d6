"""Program: a relay node whose key is in a thief's hands: while a file exists it lies in every way that the key allows.

usage: python -m portway_lab.chaos.hostile_node LIES RECORD serve ... (as portway-relay)

It is the real node. While the file LIES exists it says what is in lies.py to other nodes, to the registry and to its
clients, keeps to itself what it should say, and answers every visit itself. When the file is gone it forgets its
clients, says again what it holds, and is honest. RECORD: hostile_record.py. Here: when, to whom, and what is kept back.
"""

import asyncio
import contextlib
import random
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import portway_relay.node
from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import (
    FAILURE_CODE_CLAIM,
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_GRANT,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_QUOTA,
    FAILURE_CODE_REVOKED,
    FAILURE_CODE_SHUTDOWN,
    FAILURE_CODE_TIME,
    FAILURE_CODE_VERSION,
    Answer,
    Bind,
    BindRefused,
    Failure,
    FailureCode,
    Goaway,
    Hello,
    Moved,
    Park,
    Routes,
    Unbound,
)
from portway_proto.v1.mesh_pb2 import Announce, ResolveResponse
from portway_proto.wire.frames import FrameType, Opening
from portway_proto.wire.statements import StatementInvalid, read_claim
from portway_relay import cli
from portway_relay.errors import Refused
from portway_relay.node import Node
from portway_relay.routing.lookup import Resolve
from portway_relay.routing.tunnel import HomeNode
from portway_relay.sessions.grants import Grant
from portway_relay.sessions.session import Session
from portway_runtime.endpoints import Endpoint
from portway_runtime.tasks import Tasks

from portway_lab.chaos.hostile_record import RecordWriter
from portway_lab.chaos.lies import Lies
from portway_lab.chaos.own_answer import OwnAnswer

_LOOKED_EVERY: Final = 0.05  # seconds between looks for the file
_ROUND: Final = 0.25  # seconds between two rounds of lies
_LATEST: Final = 5.0  # seconds by which a renewal is delayed at most
_TO_A_CLIENT: Final = 0.3  # the share of clients that are lied to in a round
_AT_THE_DOOR: Final = 0.5  # the share of HELLOs and BINDs that are refused
_NO_ATTACH: Final = (
    FAILURE_CODE_REVOKED,
    FAILURE_CODE_GRANT,
    FAILURE_CODE_VERSION,
    FAILURE_CODE_OVERLOADED,
    FAILURE_CODE_SHUTDOWN,
)
_NO_TUNNEL: Final = (
    FAILURE_CODE_EPOCH,
    FAILURE_CODE_QUOTA,
    FAILURE_CODE_REVOKED,
    FAILURE_CODE_TIME,
    FAILURE_CODE_CLAIM,
    FAILURE_CODE_OVERLOADED,
)
_WORDS: Final = "said by a node that was broken into"


class HostileNode(Node):
    """A Node that can be told to lie."""

    def __init__(self, lies_while: Path, record: RecordWriter, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._lies_while = lies_while
        self._record = record
        self._rng = random.Random()
        self.lying = False
        self._told: Counter[str] = Counter()
        base, routing, raw, serving = self._base, self._routing, self._raw, self._serving
        self._lies = Lies(
            HomeNode(self.config.name, self.config.region, self.config.zone),
            lambda: routing.checks.cluster,
            base.registry_clock.now_ms,
            raw.tickets.sign,
            lambda port: raw.owners.owner(port) == self.config.name,
            self._rng,
        )
        self._turning = Tasks("hostile", named.get("on_failure"))
        self._own: OwnAnswer | None = None
        # The parts know each other as instances; each of these methods is looked up when it is called.
        events, sessions, outbox = serving.inbound_lanes._events, serving.sessions, routing.outbox
        announcer = serving.table._announcer
        _wrap(events, "routes_received", self._routes_received)
        _wrap(events, "answer", self._answer)
        _wrap(events, "visit_arrived", self._visit_arrived)
        _wrap(routing.lookup, "_resolve", self._resolve)
        _wrap(routing.visits, "_join", self._join_visit)
        _wrap(sessions, "hello", self._hello)
        _wrap(sessions, "park", self._park)
        _wrap(sessions, "_new", self._new_session)
        _wrap(outbox, "take", self._take)
        for withheld in ("withdrawn", "closed", "presence_renewed"):
            _wrap(announcer, withheld, self._withhold)

    async def start(self) -> None:
        await super().start()
        self._turning.spawn(self._turn(), name="look for the file")

    async def stop(self) -> None:
        await self._turning.close()
        if self.lying:
            self._turn_honest()
        await super().stop()

    # Turning.

    async def _turn(self) -> None:
        since = 0.0
        loop = asyncio.get_running_loop()
        while True:
            if self._lies_while.exists():
                if not self.lying:
                    await self._turn_hostile()
                if loop.time() >= since + _ROUND:
                    since = loop.time()
                    self._tell()
            elif self.lying:
                self._turn_honest()
            await asyncio.sleep(_LOOKED_EVERY)

    async def _turn_hostile(self) -> None:
        self._record.lies()
        self.lying = True
        loaded = self._base.certificates.current()
        self._own = OwnAnswer(
            self._base.carrier,
            Endpoint(self.config.listen.host, self.address.port),
            loaded.ca,
            self.config.server_name,
        )
        await self._own.open()

    def _turn_honest(self) -> None:
        """Forget the clients, as a node that was started anew, and say to everybody what is held."""
        self.lying = False
        if self._own is not None:
            self._own.close()
            self._own = None
        sessions = self._serving.sessions
        for session in list(sessions._sessions.values()):
            sessions._end(session, Failure(code=FAILURE_CODE_SHUTDOWN, message=_WORDS), closed=False)
        for peer in self._routing.peers._peers.values():
            if peer.control._lane is not None:
                peer.control._lane.abort()
        self._stream._whole_due = True
        self._routing.outbox.filled.set()
        self._record.honest()
        for what, count in self._told.items():
            self._record.told(what, count)
        self._told.clear()

    # What it says.

    def _tell(self) -> None:
        """One round."""
        for peer in self._routing.peers._peers.values():
            for routes in self._lies.routes():
                if peer.control.up:
                    self._told["tunnels"] += len(routes.bound)
                    self._told["presences"] += len(routes.presences)
                    self._told["gone"] += len(routes.gone)
                peer.control.tell(routes)
        if self._routing.calls.connected:
            self._routing.outbox.filled.set()
        for session in list(self._serving.sessions._sessions.values()):
            if self._rng.random() < _TO_A_CLIENT:
                self._lie_to(session)

    def _lie_to(self, session: Session) -> None:
        """GOAWAY, FAIL, or the loss of a tunnel."""
        self._told["to-clients"] += 1
        draw = self._rng.random()
        if draw < 0.2:
            session._send(FrameType.GOAWAY, Goaway(failure=self._failure((FAILURE_CODE_SHUTDOWN,))))
        elif draw < 0.4 and session._control is not None:
            session._control.fail(self._failure(_NO_ATTACH).SerializeToString())
        else:
            for label in list(session.tunnels):
                claim = self._rng.choice((b"", self._lies.claim_of(label)))
                session._send(FrameType.UNBOUND, Unbound(label=label, failure=self._failure(_NO_TUNNEL), claim=claim))

    def _failure(self, codes: "Sequence[FailureCode.ValueType]") -> Failure:
        return Failure(code=self._rng.choice(codes), message=_WORDS, retry_after_ms=self._rng.choice((0, 60_000)))

    def _take(self, take: Callable[[], Announce | None]) -> Announce | None:
        """To a registry: with each batch of what is true, what is not; no withdrawal."""
        batch = take()
        if not self.lying:
            return batch
        if batch is None:
            batch = self._routing.outbox._numbered(Announce())
        del batch.withdrawn[:]
        self._lies.announce(batch)
        self._told["to-registries"] += len(batch.bound) + len(batch.sessions) + len(batch.withdrawn)
        return batch

    def _answer(self, answer: Callable[[str], Answer], label: str) -> Answer:
        if not self.lying:
            return answer(label)
        self._told["answers"] += 1
        return self._lies.answer(label)

    def _withhold(self, announce: Callable[..., None], *what: Any) -> None:
        """Say it to nobody, or too late."""
        if not self.lying:
            announce(*what)
        elif self._rng.random() < 0.5:
            asyncio.get_running_loop().call_later(self._rng.random() * _LATEST, announce, *what)

    # What it hears.

    def _routes_received(
        self, received: Callable[[str, Routes], Sequence[asyncio.Future[None]]], node: str, routes: Routes
    ) -> Sequence[asyncio.Future[None]]:
        for tunnel in routes.bound:
            self._lies.heard_tunnel(tunnel)
        for presence in routes.presences:
            self._lies.heard_presence(presence)
        return received(node, routes)

    async def _resolve(self, resolve: Resolve, label: str, *, current: bool = False) -> ResolveResponse | None:
        answer = await resolve(label, current=current)
        if answer is not None and answer.HasField("tunnel"):
            self._lies.heard_tunnel(answer.tunnel)
            self._lies.heard_presence(answer.presence)
        return answer

    # Its clients.

    async def _hello(
        self, hello: Callable[[Lane, Hello], Coroutine[Any, Any, Session]], lane: Lane, greeting: Hello
    ) -> Session:
        self._lies.heard_grant(greeting.grant)
        if self.lying and self._rng.random() < _AT_THE_DOOR:
            self._told["to-clients"] += 1
            raise Refused(self._rng.choice(_NO_ATTACH), _WORDS, retry_after=self._rng.choice((0.0, 60.0)))
        return await hello(lane, greeting)

    def _park(self, park: Callable[[Lane, Park], None], lane: Lane, shown: Park) -> None:
        if self._own is not None and shown.session_id == self._own.session_id:
            self._own.park(lane)
        else:
            park(lane, shown)

    def _new_session(self, new: Callable[[Grant], Session], grant: Grant) -> Session:
        session = new(grant)
        tunnels = session._tunnels

        def bind(original: Callable[[bytes], None], payload: bytes) -> None:
            request = Bind.FromString(payload)
            with contextlib.suppress(StatementInvalid):
                claim = read_claim(request.claim)
                if claim.node == self.config.name:
                    self._record.placed(claim.label)
                self._lies.heard_claim(request.claim)
                if self.lying and self._rng.random() < _AT_THE_DOOR:
                    refusal = BindRefused(
                        request=request.request,
                        failure=self._failure(_NO_TUNNEL),
                        claim=self._rng.choice((b"", self._lies.claim_of(claim.label))),
                    )
                    session._send(FrameType.BIND_REFUSED, refusal)
                    self._told["to-clients"] += 1
                    return
            original(payload)

        def moved(original: Callable[[bytes], None], payload: bytes) -> None:
            request = Moved.FromString(payload)
            self._lies.heard_claim(request.claim)
            self._lies.heard_presence(request.presence)
            if not self.lying:
                original(payload)

        def renewed(original: Callable[[Any], None], presence: Any) -> None:
            self._lies.heard_presence(presence.encoded)
            original(presence)

        _wrap(tunnels, "bind", bind)
        _wrap(tunnels, "moved", moved)
        _wrap(tunnels.shown, "_renewed", renewed)
        return session

    # Visits.

    def _visit_arrived(
        self, arrived: Callable[[str, Lane, Opening], None], node: str, lane: Lane, opening: Opening
    ) -> None:
        mine = None if self._own is None else self._own.tunnel(self._lies.own_claim())
        if mine is None:
            arrived(node, lane, opening)
        else:
            self._told["visits-forwarded-to-it"] += 1
            self._routing.visits.start_forwarded(lane, opening, mine)

    def _join_visit(self, join: Callable[..., None], stream: Any, opening: Any, arrival: Any) -> None:
        if self._own is not None and arrival.again and (mine := self._own.tunnel(self._lies.own_claim())) is not None:
            self._told["visits-at-itself"] += 1
            arrival.destination = mine
        join(stream, opening, arrival)


def _wrap(part: object, name: str, instead: Callable[..., Any]) -> None:
    """Let `instead` be called in place of a method, with that method and its arguments."""
    method = getattr(part, name)
    setattr(part, name, lambda *arguments, **named: instead(method, *arguments, **named))


def main(arguments: Sequence[str]) -> None:
    """Run the command and exit."""
    lies_while, record, *command = arguments

    class Started(HostileNode):
        def __init__(self, *positional: Any, **named: Any) -> None:
            super().__init__(Path(lies_while), RecordWriter(Path(record)), *positional, **named)

    portway_relay.node.Node = Started  # type: ignore[misc]
    cli.main(command)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Nodes and registries as a client's search meets them: a test says how each dial, HELLO and Locate ends."""

import asyncio
from typing import ClassVar

from portway.engine.dialogue import SessionCredentials, Welcomed
from portway.engine.directory import Grant, Located, Node
from portway.engine.failures import Failure
from portway.engine.session import SessionOver
from portway.engine.signer import Signer
from portway.errors import Error
from portway_carrier.errors import CarrierError
from portway_carrier.values import ClientTls, Handshake
from portway_proto.wire.limits import LINK_ALPN
from portway_proto.wire.statements import signed_greeting
from portway_runtime.endpoints import Endpoint

from portway_testkit.signers import CLUSTER, CLUSTER_ID

KEY = SessionCredentials(b"id", b"secret")
SIGNER = Signer()
SIGNER.learn(CLUSTER_ID, 0)


def node(name: str, region: str = "fra") -> Node:
    return Node(name, region, Endpoint(f"{name}.test", 443), f"{name}.node.portway.internal", "tunnels.test")


class FakeStream:
    def __init__(self, name: str, outcome: object) -> None:
        self.name = name
        self.outcome = outcome
        self.aborted = False

    async def ready(self) -> Handshake:
        if isinstance(self.outcome, CarrierError):
            raise self.outcome
        if self.outcome == "silent":
            await asyncio.Event().wait()
        return Handshake("h2" if self.outcome == "not a node" else LINK_ALPN, self.name.encode(), 0.0)

    def abort(self) -> None:
        self.aborted = True


class FakeCarrier:
    """`outcomes` says by a node's name how its dial and its HELLO go; what is not in it goes well."""

    def __init__(self) -> None:
        self.outcomes: dict[str, object] = {}
        self.dialled: list[FakeStream] = []
        self.tls: list[ClientTls] = []

    def connect(self, address: Endpoint, tls: ClientTls, via: object = None) -> FakeStream:
        name = address.host.removesuffix(".test")
        self.tls.append(tls)
        self.dialled.append(FakeStream(name, self.outcomes.get(name)))
        return self.dialled[-1]

    @property
    def names(self) -> list[str]:
        return [stream.name for stream in self.dialled]


class FakeSession:
    """HELLO goes as the stream's outcome says."""

    hellos: ClassVar[list[tuple[str, str, SessionCredentials | None]]] = []
    dropped: ClassVar[int] = 0

    def __init__(self, carrier: FakeCarrier, stream: FakeStream, events: object, node: Node) -> None:
        self._stream = stream
        self.node = node

    async def hello(self, grant: str, signature: bytes, resume: SessionCredentials | None) -> Welcomed:
        certificate = self._stream.name.encode()
        greeting = signed_greeting(SIGNER.session_key, CLUSTER, self.node.name, certificate, signature)
        assert greeting.is_genuine()
        FakeSession.hellos.append((self._stream.name, grant, resume))
        outcome = self._stream.outcome
        if isinstance(outcome, Failure):
            raise SessionOver(outcome.message, outcome)
        if outcome == "mute":
            await asyncio.Event().wait()
        return Welcomed(KEY, False, 60.0, 0, 0.0)

    def drop(self) -> None:
        FakeSession.dropped += 1


class FakeRegistries:
    def __init__(self, *nodes: Node) -> None:
        self.nodes = nodes
        self.error: Error | None = None
        self.asked = 0
        self.new_tunnels: list[int] = []

    def locate(self, session_key: bytes, new_tunnels: int, limit: int) -> Located:
        self.asked += 1
        self.new_tunnels.append(new_tunnels)
        if self.error is not None:
            raise self.error
        return Located(self.nodes, b"ca", Grant(f"grant {self.asked}", 100.0), cluster_id=CLUSTER_ID)

    def renew(self, session_key: bytes) -> Grant:
        raise NotImplementedError

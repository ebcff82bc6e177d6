"""Statements that are all genuine, as many as can be sent: their checks cost the budget of the one who sends them."""

import asyncio
import itertools
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Self

import portway
import pytest
from portway_proto.v1.lane_pb2 import Peer, Routes
from portway_proto.v1.lane_pb2 import Presence as PresenceMessage
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN, PROTOCOL_VERSION
from portway_registry.pki.ca_folder import CaFolder
from portway_testkit.clusters.hand_grants import Grants
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import node_info
from portway_testkit.fixtures import AsClient
from portway_testkit.signers import SessionSigner, now_ms, tunnel_info
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.siege import Besieged, Download, besiege, endless
from portway_testkit.visitors.visiting import connect_tls, tls_context, visit
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(400)]

HOSTILE = "fra-2"
# Statements per second; a check takes 60 to 160 µs.
RATE = 2_000
IN_A_FRAME = 30
# Beforehand: what five rounds take, and twenty; more are signed while the flood goes on.
CLAIMED = 30_000
SIGNED = 150_000
USED_UP = 120.0  # seconds: more than 25,000 checks take to be asked for on a busy machine
ENOUGH = 0.8


class Flood:
    """Frames that are made beforehand, at RATE statements per second; the Reins of a siege."""

    def __init__(self, lane: ssl.SSLSocket, frames: Iterator[bytes], pause: float) -> None:
        self._lane = lane
        self._frames = frames
        self._pause = pause
        self._going = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="flood")
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._going.set()
        self._thread.join()

    def go(self) -> None:
        self._going.set()

    def rest(self) -> None:
        self._going.clear()

    def hurry(self) -> None:
        """Send as fast as the node reads from now on."""
        self._pause = 0.0

    def _run(self) -> None:
        due = time.monotonic()
        while self._going.wait() and not self._over:
            frame = next(self._frames, None)
            assert frame is not None, "too few statements were made"
            try:
                self._lane.sendall(frame)
            except OSError:
                return
            self.sent += 1
            due = max(due + self._pause, time.monotonic() - 10 * self._pause)
            time.sleep(max(0.0, due - time.monotonic()))


def lane_to(node: Besieged, alpn: str, identity: tuple[Path, Path] | None = None) -> ssl.SSLSocket:
    context = tls_context(node.ca, alpn)
    if identity is not None:
        context.load_cert_chain(*identity)
    return connect_tls(context, (node.host, node.port), node.server_name)


@pytest.fixture
async def hostile(besieged: Besieged) -> AsyncIterator[tuple[Path, Path]]:
    """A node of the same region, as far as the registry and the others know; its certificate and key."""
    certificate, key = (besieged.pki / f"node-{HOSTILE}.{kind}" for kind in ("crt", "key"))
    if not certificate.exists():
        CaFolder.open(besieged.pki).add_node(HOSTILE)

    class Identities:
        ca = besieged.ca

        def node(self, name: str) -> tuple[bytes, bytes]:
            return certificate.read_bytes(), key.read_bytes()

    info = node_info(HOSTILE, domain="localhost")
    async with NodeStream(besieged.mesh, Identities(), info) as stream:
        await stream.until(lambda: "fra-1" in stream.peers)
        yield certificate, key


async def test_a_nodes_genuine_claims_cost_its_own_budget(
    besieged: Besieged, hostile: tuple[Path, Path], as_client: AsClient
) -> None:
    """A sibling's clients claim thousands of tunnels a second, each with a raw port, so that claim, presence and
    ticket are checked at once. Above the sibling's budget they count as not shown. The tunnel in use keeps its speed,
    new ones open and serve, and nobody else's statements are passed over."""
    cluster = Grants(besieged.environment).new().signer.cluster
    _, owned = besieged.tunnel.tcp_socket  # whose owner is known: a ticket is asked for, too
    signed = (claims_of(SessionSigner(cluster), owned) for _ in itertools.repeat(None))
    frames = itertools.chain(list(itertools.islice(signed, CLAIMED // IN_A_FRAME)), signed)
    as_client(besieged.environment)

    def flooded() -> None:
        before = besieged.metrics()
        with lane_to(besieged, MESH_ALPN, hostile) as lane:
            peer = Peer(version=PROTOCOL_VERSION, control=True)
            lane.sendall(encode_frame(FrameType.PEER, peer.SerializeToString()))
            with Flood(lane, frames, IN_A_FRAME / RATE) as flood:
                with Download(besieged.tunnel, besieged.ca) as download:
                    figures = besiege(download, flood, besieged.pid, ENOUGH, during=lambda: opened(besieged))
                flood.hurry()
                flood.go()
                eventually(lambda: passed_over(besieged, before, "node") > 0, within=USED_UP)
                opened(besieged)
                flood.rest()
        print(figures, flood.sent * IN_A_FRAME, "claims;", passed_over(besieged, before, "node"), "passed over")
        assert figures.ratio >= ENOUGH, figures
        assert passed_over(besieged, before, "token") == 0

    await asyncio.to_thread(flooded)


def claims_of(signer: SessionSigner, port: int) -> bytes:
    """Genuine claims of new tunnels at the hostile node, and the presence that lists them."""
    claims = [signer.claim(node=HOSTILE, epoch=1, unencrypted=True) for _ in range(IN_A_FRAME)]
    presence = signer.present(HOSTILE, time_ms=now_ms())
    told = Routes(bound=[tunnel_info(claim, "fra", port=port) for claim in claims], presences=[presence.encoded])
    return encode_frame(FrameType.ROUTES, told.SerializeToString())


def passed_over(besieged: Besieged, before: dict[str, float], whose: str) -> float:
    """Signatures of nodes or tokens that were above their budget."""
    name = f'signatures_unchecked_total{{of="{whose}"}}'
    return besieged.metrics().get(name, 0) - before.get(name, 0)


def opened(besieged: Besieged) -> None:
    """A new tunnel of an honest client opens and serves."""
    with TcpOrigin(endless) as origin, portway.forward(origin.port) as tunnel, visit(tunnel, besieged.ca) as visitor:
        assert visitor.recv(1000)


async def test_a_clients_genuine_presences_cost_its_own_budget(besieged: Besieged, as_client: AsClient) -> None:
    """The same on a session's own lane, one in each frame."""
    grant = Grants(besieged.environment).new()
    signer = SessionSigner(grant.signer.cluster, grant.signer.key)
    node = besieged.server_name.partition(".")[0]
    claim = signer.claim(node=node, epoch=1)
    times = itertools.count(now_ms() - 60_000)
    frames = (
        encode_frame(
            FrameType.PRESENCE,
            PresenceMessage(statement=signer.present(node, claim, time_ms=next(times)).encoded).SerializeToString(),
        )
        for _ in itertools.repeat(None)
    )
    pieces = (b"".join(itertools.islice(frames, IN_A_FRAME)) for _ in itertools.repeat(None))
    made = itertools.chain(list(itertools.islice(pieces, SIGNED // IN_A_FRAME)), pieces)
    as_client(besieged.environment)

    def flooded() -> None:
        with lane_to(besieged, LINK_ALPN) as lane:
            certificate = lane.getpeercert(binary_form=True)
            assert certificate is not None
            hello = grant.hello(node, certificate, version=PROTOCOL_VERSION)
            lane.sendall(encode_frame(FrameType.HELLO, hello.SerializeToString()))
            assert lane.recv(4096)
            lane.settimeout(None)
            with Flood(lane, made, IN_A_FRAME / RATE) as flood, Download(besieged.tunnel, besieged.ca) as download:
                figures = besiege(download, flood, besieged.pid, ENOUGH, during=lambda: opened(besieged))
                lane.shutdown(socket.SHUT_RDWR)  # the flood may wait for the node to read
        print(figures, flood.sent * IN_A_FRAME)
        assert figures.ratio >= ENOUGH, figures

    await asyncio.to_thread(flooded)

"""Statements that are all genuine, as many as can be sent: their checks cost the budget of the one who sends them."""

import asyncio
import itertools
from collections.abc import Callable

import portway
import pytest
from portway_proto.v1.lane_pb2 import Presence as PresenceMessage
from portway_proto.v1.lane_pb2 import Routes
from portway_proto.wire.frames import FrameType, encode_frame
from portway_proto.wire.limits import LINK_ALPN, PROTOCOL_VERSION
from portway_testkit.clusters.hand_grants import Grants
from portway_testkit.fixtures import AsClient
from portway_testkit.signers import SessionSigner, now_ms, tunnel_info
from portway_testkit.visitors.hostile_sibling import HostileSibling
from portway_testkit.visitors.lane_flood import LaneFlood, lane_to
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.siege import Besieged, Download, besiege, endless
from portway_testkit.visitors.visiting import visit
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(400)]

# Statements per second; a check takes 60 to 160 µs.
RATE = 2_000
IN_A_FRAME = 10  # each with a ticket
IN_A_PIECE = 30
# Beforehand: what five rounds take, and twenty; more are signed while the flood goes on.
CLAIMED = 30_000
SIGNED = 150_000
USED_UP = 120.0  # seconds: more than 25,000 checks take to be asked for on a busy machine
ENOUGH = 0.8


async def test_a_nodes_genuine_claims_cost_its_own_budget(
    besieged: Besieged, sibling: HostileSibling, as_client: AsClient
) -> None:
    """A sibling's clients claim thousands of tunnels a second, each with a raw port, so that claim and presence are
    checked at once. Above the sibling's budget they count as not shown. The tunnel in use keeps its speed, new ones
    open and serve, and nobody else's statements are passed over."""
    before = besieged.metrics()

    def used_up() -> None:
        eventually(lambda: passed_over(besieged, before, "node") > 0, within=USED_UP)

    as_client(besieged.environment)
    await asyncio.to_thread(claimed, besieged, sibling, afterwards=used_up)
    assert passed_over(besieged, before, "token") == 0


async def test_a_nodes_claims_with_tickets_slow_nobody(
    besieged: Besieged, sibling: HostileSibling, as_client: AsClient
) -> None:
    """The same, each with a ticket that the sibling has signed, which takes five times as long to check as a claim."""
    as_client(besieged.environment)
    await asyncio.to_thread(claimed, besieged, sibling, sibling.ticket("a" * 16, besieged.raw_ports.start))


def claimed(
    besieged: Besieged, sibling: HostileSibling, ticket: bytes = b"", afterwards: Callable[[], None] = lambda: None
) -> None:
    """Claim tunnels on the sibling's control lane, each with this ticket, while one is in use. `afterwards` returns
    while as many are claimed as the node reads."""
    cluster = Grants(besieged.environment).new().signer.cluster
    _, owned = besieged.tunnel.tcp_socket  # whose owner is known: a ticket is asked for, too
    signed = (claims_of(sibling.name, SessionSigner(cluster), owned, ticket) for _ in itertools.repeat(None))
    frames = itertools.chain(list(itertools.islice(signed, CLAIMED // IN_A_FRAME)), signed)
    with sibling.lane() as lane, LaneFlood(lane, frames, IN_A_FRAME / RATE) as flood:
        with Download(besieged.tunnel, besieged.ca) as download:
            figures = besiege(download, flood, besieged.pid, ENOUGH, during=lambda: opened(besieged))
        flood.hurry()
        flood.go()
        afterwards()
        opened(besieged)
    print(figures, flood.sent * IN_A_FRAME, "claims")
    assert figures.ratio >= ENOUGH, figures


def claims_of(node: str, signer: SessionSigner, port: int, ticket: bytes) -> bytes:
    """Genuine claims of new tunnels at the node, and the presence that lists them."""
    claims = [signer.claim(node=node, epoch=1, unencrypted=True) for _ in range(IN_A_FRAME)]
    presence = signer.present(node, time_ms=now_ms())
    bound = [tunnel_info(claim, "fra", port=port, ticket=ticket) for claim in claims]
    told = Routes(bound=bound, presences=[presence.encoded])
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
    pieces = (b"".join(itertools.islice(frames, IN_A_PIECE)) for _ in itertools.repeat(None))
    made = itertools.chain(list(itertools.islice(pieces, SIGNED // IN_A_PIECE)), pieces)
    as_client(besieged.environment)

    def flooded() -> None:
        with lane_to(besieged, LINK_ALPN) as lane:
            certificate = lane.getpeercert(binary_form=True)
            assert certificate is not None
            hello = grant.hello(node, certificate, version=PROTOCOL_VERSION)
            lane.sendall(encode_frame(FrameType.HELLO, hello.SerializeToString()))
            assert lane.recv(4096)
            lane.settimeout(None)
            with LaneFlood(lane, made, IN_A_PIECE / RATE) as flood, Download(besieged.tunnel, besieged.ca) as download:
                figures = besiege(download, flood, besieged.pid, ENOUGH, during=lambda: opened(besieged))
        print(figures, flood.sent * IN_A_PIECE)
        assert figures.ratio >= ENOUGH, figures

    await asyncio.to_thread(flooded)

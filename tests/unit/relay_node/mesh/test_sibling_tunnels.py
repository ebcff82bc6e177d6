"""A sibling's tunnel has a raw port before this node is told whose block the port is of."""

from types import SimpleNamespace
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import SigningKey
from portway_relay.config import PortRange
from portway_relay.mesh.sibling_tunnels import SiblingTunnels
from portway_relay.raw_ports.owners import PortOwners
from portway_relay.raw_ports.sibling_ports import SiblingPort, SiblingPortMap
from portway_relay.raw_ports.tickets import Ticket
from portway_relay.routing.senders import NODE, Sender
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import SessionSigner, label_of

SENDER = Sender(NODE, "fra-2")
BLOCK = PortRange(20_000, 20_063)


class Announced:
    """What a sibling announces, and the ports that are listened on for it. What it shows is genuine."""

    def __init__(self) -> None:
        self.owners = PortOwners("fra-1", lambda port: False)
        self.bound: list[SiblingPort] = []
        self.placed: Any = None
        ports = SimpleNamespace(bound=self.bound.append, gone=lambda *_: None, whole=lambda *_: None)
        self.siblings = SiblingTunnels(
            SimpleNamespace(placed=lambda label: self.placed),  # type: ignore[arg-type]
            SimpleNamespace(settle=self._at_once),  # type: ignore[arg-type]
            SimpleNamespace(wait=lambda sender, number: 0, check=self._at_once),  # type: ignore[arg-type]
            SimpleNamespace(unchecked=self._ticket),  # type: ignore[arg-type]
            self.owners,
            SiblingPortMap(),
            ports,  # type: ignore[arg-type]
            on_failure=pytest.fail,  # type: ignore[arg-type]
        )

    async def announce(self, port: int) -> None:
        key = SigningKey()
        claim = SessionSigner(b"c" * 16).claim(key, node="fra-2", epoch=1)
        self.placed = SimpleNamespace(claim=claim)
        tunnel = TunnelInfo(label=label_of(key), node="fra-2", epoch=1, unencrypted_port=port, ticket=b"")
        self._of = tunnel
        await self.siblings.heard(SENDER, tunnel, claim)

    def _ticket(self, _: bytes) -> Any:
        ticket = Ticket(self._of.label, self._of.unencrypted_port, 1, "fra-2", b"")
        return SimpleNamespace(ticket=ticket, failure="")

    async def _at_once(self, *_: object) -> None:
        pass


async def test_it_is_listened_on_once_the_owner_is_known() -> None:
    """Nobody announces it again: the list of owners comes after it, and may say nothing of it at first."""
    announced = Announced()
    await announced.announce(20_001)
    announced.owners.learn([(PortRange(20_064, 20_127), "fra-3")])
    assert announced.bound == []
    announced.owners.learn([(BLOCK, "fra-2")])
    await until(lambda: [one.port for one in announced.bound] == [20_001])
    announced.owners.learn([(BLOCK, "fra-2")])
    await announced.siblings.close()
    assert len(announced.bound) == 1


async def test_what_another_node_owns_does_not_wait() -> None:
    """The sibling has no ticket for it."""
    announced = Announced()
    announced.owners.learn([(BLOCK, "fra-3")])
    await announced.announce(20_001)
    announced.owners.learn([(BLOCK, "fra-2")])
    await announced.siblings.close()
    assert announced.bound == []


async def test_few_wait() -> None:
    """A sibling may announce what it likes."""
    announced = Announced()
    for port in range(20_000, 20_300):
        await announced.announce(port)
    assert len(announced.siblings._waiting) == 256
    await announced.siblings.close()

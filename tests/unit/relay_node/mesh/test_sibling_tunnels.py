"""Raw ports of siblings' tunnels: the owner may be known later, and all are checked at a pace."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_proto.wire.statements import SigningKey
from portway_relay.config import PortRange
from portway_relay.mesh import sibling_tunnels
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
        self.wait = 0.0  # until the sender's budget of signatures has caught up
        ports = SimpleNamespace(bound=self.bound.append, gone=lambda *_: None, whole=lambda *_: None)
        self.siblings = SiblingTunnels(
            SimpleNamespace(placed=lambda label: self.placed),  # type: ignore[arg-type]
            SimpleNamespace(settle=self._at_once),  # type: ignore[arg-type]
            SimpleNamespace(wait=lambda sender, number: self.wait, check=self._at_once),  # type: ignore[arg-type]
            SimpleNamespace(unchecked=self._ticket),  # type: ignore[arg-type]
            self.owners,
            SiblingPortMap(),
            ports,  # type: ignore[arg-type]
            clock=time.monotonic,
            on_failure=pytest.fail,  # type: ignore[arg-type]
        )

    async def announce(self, port: int) -> None:
        await self.heard(port)

    def heard(self, port: int, sender: Sender = SENDER) -> "asyncio.Future[None]":
        key = SigningKey()
        claim = SessionSigner(b"c" * 16).claim(key, node=sender.name, epoch=1)
        self.placed = SimpleNamespace(claim=claim)
        tunnel = TunnelInfo(label=label_of(key), node=sender.name, epoch=1, unencrypted_port=port, ticket=b"")
        self._of = tunnel
        return self.siblings.heard(sender, tunnel, claim)

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


async def test_one_sibling_waits_little_for_what_another_announces() -> None:
    """They take turns, and a turn is short."""
    announced = Announced()
    many = [announced.heard(port) for port in range(20_000, 20_500)]
    one = announced.heard(20_500, Sender(NODE, "fra-3"))
    await one
    assert sum(future.done() for future in many) < 50
    await asyncio.gather(*many)
    await announced.siblings.close()


async def test_after_a_turn_there_is_none_for_as_long_as_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that checks for siblings take half a core at most."""
    announced, slept = Announced(), list[float]()
    times = iter(range(0, 1_000, 3))
    announced.siblings._clock = lambda: next(times)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(sibling_tunnels, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    await asyncio.gather(*(announced.heard(port) for port in range(20_000, 20_100)))
    await announced.siblings.close()
    assert slept == [3, 3, 3]


async def test_what_is_above_the_budget_is_not_taken_up() -> None:
    """The sibling is told at once that it may go on."""
    announced = Announced()
    announced.owners.learn([(BLOCK, "fra-2")])
    announced.wait = 1.0
    assert announced.heard(20_001).done()
    await announced.siblings.close()
    assert announced.bound == []


async def test_what_waits_when_the_node_stops_is_cancelled() -> None:
    announced = Announced()
    many = [announced.heard(port) for port in range(20_000, 20_100)]
    await announced.siblings.close()
    assert all(future.done() for future in many)

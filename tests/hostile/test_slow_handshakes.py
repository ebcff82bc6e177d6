"""Clients' and nodes' lanes that stop in the middle of the handshake."""

import portway
import pytest
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.attacker import Attack, Attacker
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.siege import MARKS, Besieged
from portway_testkit.waiting import eventually

pytestmark = MARKS

MOST = 256  # the node's --max-greetings
# A handshake in progress has buffers and OpenSSL's state, in MiB: 0.22 to 0.36 were measured, most on a busy machine.
A_HANDSHAKE = 0.8
SLACK = 16


class Standstill:
    """So many lanes as may be on their way, each with a whole hello and nothing after it, and fifty new ones a
    second."""

    def __init__(self, besieged: Besieged, alpn: str) -> None:
        self._besieged = besieged
        self._metric = {LINK_ALPN: "greeting_lanes", MESH_ALPN: 'lane_handshakes{of="node"}'}[alpn]
        hello = real_hello(besieged.server_name, [alpn]).hex()
        self.attack = Attack(besieged.host, [besieged.port], 50, [hello], at_once=MOST + 50, hold=1_000, addresses=40)

    def in_progress(self) -> float:
        return self._besieged.metrics()[self._metric]

    def wait(self) -> None:
        """Until every place is taken."""
        eventually(lambda: self.in_progress() == MOST)


@pytest.mark.parametrize("alpn", [LINK_ALPN, MESH_ALPN])
def test_handshakes_that_never_end_slow_nobody(besieged: Besieged, alpn: str) -> None:
    """While every place for them is taken the tunnel in use goes on and new visitors are served; there are no more of
    them than may be, and no more memory."""
    standstill = Standstill(besieged, alpn)
    seen = []

    def during() -> None:
        seen.append(standstill.in_progress())
        besieged.served()

    figures, _ = besieged.under(standstill.attack, begun=standstill.wait, during=during)
    print(f"{figures}, {max(seen):.0f} handshakes in progress")
    assert figures.ratio >= 0.8, figures
    assert max(seen) == MOST
    assert figures.grown < SLACK + MOST * A_HANDSHAKE, figures


def test_handshakes_that_never_end_shut_no_client_out(besieged: Besieged, as_client: AsClient) -> None:
    """Once they have stood still for two seconds each makes room for who comes after it: a new client attaches."""
    as_client(besieged.environment)
    standstill = Standstill(besieged, LINK_ALPN)

    def evicted() -> float:
        return besieged.metrics().get('turned_away_total{reason="greetings_stalled"}', 0.0)

    before = evicted()
    with Attacker(standstill.attack) as attacker:
        attacker.go()
        eventually(lambda: evicted() > before)
        with portway.forward(1) as tunnel:
            assert standstill.in_progress() >= MOST * 0.9
            assert tunnel.host

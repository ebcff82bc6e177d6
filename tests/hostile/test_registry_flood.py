"""Connections for the registry, faster than a node passes them on, from many networks."""

from portway_testkit.visitors.attacker import Attack, Attacker
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.siege import MARKS, REGISTRY_NAME, Besieged
from portway_testkit.waiting import eventually

pytestmark = MARKS

# Of a core: 300 a second are passed on, and the others take no more than an accept and a peek.
SHARE = 0.5


def test_a_flood_for_the_registry_keeps_no_visitor_out(besieged: Besieged) -> None:
    """A thousand a second, each of which begins TLS and stays: the node spends no more on them than on 300 a second, no
    more are in progress than there are places, and visitors are served, of whom none counts as such a connection."""
    hello = real_hello(REGISTRY_NAME, ["h2"])
    eventually(lambda: besieged.answers(hello)[:1] == b"\x16")
    before, memory = besieged.metrics(), besieged.memory()
    attack = Attack(besieged.host, [besieged.port], 1_000, [hello.hex()], hold=1_500, addresses=100, networks=20)
    busy, most = [], 0.0
    with Attacker(attack) as attacker:
        for _ in range(3):
            attacker.go()
            busy.append(besieged.busy(1.0))
            most = max(most, besieged.metrics()["passages"])
            besieged.served()
            attacker.rest()
    grown = besieged.memory() - memory
    after = besieged.metrics()
    print(f"{min(busy):.2f} of a core, {most:.0f} in progress, {grown:.0f} MiB more")
    assert min(busy) <= SHARE
    assert 0 < most <= 1_000
    assert grown < 64
    assert after["visits_started_total"] - before["visits_started_total"] == 3
    eventually(lambda: besieged.metrics()["passages"] == 0)

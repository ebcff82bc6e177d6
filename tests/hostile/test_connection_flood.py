"""Connections of one address, as fast as they come."""

from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.siege import MARKS, Besieged

pytestmark = MARKS


def test_a_flood_of_one_address_slows_nobody(besieged: Besieged) -> None:
    """It opens connections faster than an address may, each with a whole hello that nobody is known by: the tunnel in
    use goes on, and visitors of another address are served."""
    hello = real_hello(f"{'a' * 16}.fra.localhost").hex()
    before = besieged.metrics()
    attack = Attack(besieged.host, [besieged.port], 2_000, [hello], hold=50, at_once=1_500)
    figures, told = besieged.under(attack)
    after = besieged.metrics()
    refused = after['turned_away_total{reason="rate"}'] - before.get('turned_away_total{reason="rate"}', 0)
    print(f"{figures} {told.opened} opened, {refused:.0f} refused by rate")
    assert figures.ratio >= 0.8, figures
    assert refused > 0
    assert figures.grown < 16

"""Every raw port of the region, again and again."""

import socket

from portway_testkit.visitors.attacker import Attack
from portway_testkit.visitors.siege import MARKS, Besieged, Checked
from portway_testkit.visitors.visiting import visit_raw
from portway_testkit.waiting import eventually

pytestmark = MARKS


def test_a_scan_of_ports_slows_nobody_and_finds_what_is_open(besieged: Besieged) -> None:
    """Eight hundred ports a second: the tunnel in use goes on; only the port of a tunnel listens, who comes to it is
    served, and what the scan has opened there is gone with it."""

    def during() -> None:
        besieged.served()
        with visit_raw(besieged.tunnel) as visitor:
            Checked().take(visitor.recv(1_000) or b"the end")

    attack = Attack(besieged.host, list(besieged.raw_ports), 800, hold=100, addresses=20)
    figures, told = besieged.under(attack, during=during)
    print(f"{figures}; {len(besieged.raw_ports)} ports")
    assert told.opened > 0
    assert figures.ratio >= 0.8, figures
    assert figures.grown < 16, figures
    found = [port for port in besieged.raw_ports if is_open(besieged.host, port)]
    assert found == [besieged.tunnel.unencrypted_port]
    eventually(lambda: besieged.metrics()["visits"] == 0)


def is_open(host: str, port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((host, port)) == 0

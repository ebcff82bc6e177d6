"""Clients' lanes that send a whole hello and then nothing, from a few addresses, faster than they are let go."""

import time

import portway
import pytest
from portway.engine import engine_thread
from portway.errors import Error
from portway_proto.wire.limits import LINK_ALPN
from portway_testkit.fixtures import AsClient
from portway_testkit.visitors.attacker import Attack, Attacker
from portway_testkit.visitors.hellos import real_hello
from portway_testkit.visitors.siege import MARKS, Besieged
from portway_testkit.waiting import eventually

pytestmark = MARKS

MOST = 256  # the node's --max-greetings
ATTEMPTS = 12
ENOUGH = 11
WITHIN = 5.0


@pytest.mark.parametrize("networks", [1, 6])
def test_stalled_hellos_of_few_prefixes_shut_no_client_out(
    besieged: Besieged, as_client: AsClient, networks: int
) -> None:
    """From six addresses, of one /24 or of six, they fill every place again as soon as it is free: a client of another
    prefix gets one at once, and attaches."""
    as_client(besieged.environment)
    hello = real_hello(besieged.server_name, [LINK_ALPN]).hex()
    attack = Attack(
        besieged.host, [besieged.port], 1_500, [hello], at_once=2 * MOST, hold=4_000, addresses=6, networks=networks
    )
    took = []
    with Attacker(attack) as attacker:
        attacker.go()
        eventually(lambda: besieged.metrics()["greeting_lanes"] == MOST)
        for _ in range(ATTEMPTS):
            began = time.monotonic()
            try:
                with portway.forward(1, timeout=WITHIN):
                    took.append(time.monotonic() - began)
            except Error as error:
                print(error)
            finally:
                engine_thread.stop_engine()  # its session would serve the next tunnel too
        eventually(lambda: besieged.metrics()["greeting_lanes"] > MOST / 2)  # it goes on
        report = attacker.rest()
    print(f"{len(took)} of {ATTEMPTS} attached, the last after {max(took, default=0):.2f} s; {report.opened} opened")
    assert len(took) >= ENOUGH

"""Two thousand clients that have lost their node come to another one in the same moment."""

import statistics
import time

import pytest
from portway_testkit.clusters.hand_grants import Grants
from portway_testkit.visitors.siege import Besieged, Download
from portway_testkit.visitors.storm import Storm
from portway_testkit.waiting import eventually

pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(180)]

CLIENTS = 2_000
MOST_GREETINGS = 256  # the node's --max-greetings
# At 400 at once and 200 a second they are 8 s; each waits up to half as long again as it was told, and client, node and
# everything else share this machine.
WITHIN = 60.0
# Of a session with its control lane, in MiB.
A_SESSION = 0.1
SLACK = 32


@pytest.mark.slow  # eight seconds at the pace that the node takes them, and as long again for all their handshakes
def test_two_thousand_clients_that_come_at_once_are_all_let_in(unasked: Besieged) -> None:
    """Everybody has a session and a tunnel within a minute; the tunnel in use goes on meanwhile, new visitors are
    served, and handshakes in progress and memory are bounded. At a node where no earlier client may still come back."""
    before, memory = unasked.metrics(), unasked.memory()
    grant = Grants(unasked.environment)
    with Download(unasked.tunnel, unasked.ca) as download:
        quiet = download.speed()
        speeds, waits, greetings = [], [], []
        with Storm(CLIENTS, (unasked.host, unasked.port), unasked.server_name, unasked.ca, grant) as storm:
            while not storm.over:
                speeds.append(download.speed())
                came = time.monotonic()
                unasked.served()
                waits.append(time.monotonic() - came)
                greetings.append(unasked.metrics()["greeting_lanes"])
            after, grown = unasked.metrics(), unasked.memory() - memory
            back = sorted(storm.back_after)
    print(f"back: median {statistics.median(back):.1f} s, last {back[-1]:.1f} s; turned away {dict(storm.turned_away)}")
    print(
        f"download: {quiet:.0f} MB/s before, {statistics.median(speeds):.0f} meanwhile, {min(speeds):.0f} at the least"
    )
    print(f"visitors served in {statistics.median(waits):.2f} s, {max(waits):.2f} at the most")
    print(f"{grown:.0f} MiB more; {max(greetings):.0f} greetings at the most")
    assert len(back) == CLIENTS
    assert back[-1] < WITHIN
    assert present(after) - present(before) == CLIENTS
    assert after["tunnels"] - before["tunnels"] == CLIENTS
    assert min(speeds) > 0
    assert max(waits) < 5
    assert max(greetings) <= MOST_GREETINGS
    assert grown < SLACK + CLIENTS * A_SESSION + MOST_GREETINGS * 0.3
    eventually(lambda: present(unasked.metrics()) == present(before))


def present(metrics: dict[str, float]) -> float:
    """Sessions whose clients are there: those that other tests have left may be gone meanwhile."""
    return metrics["sessions"] - metrics["sessions_away"]

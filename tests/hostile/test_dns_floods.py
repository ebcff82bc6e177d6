"""Floods of DNS queries: tunnels in use keep their speed, DNS its share of the loop, and memory is bounded."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from portway_testkit.visitors.dns_flooder import DnsFlood
from portway_testkit.visitors.siege import MARKS, Besieged

pytestmark = MARKS

# Of the event loop: a fifth, and what is allowed at once at the beginning of a round.
MOST = 0.25
# Answers. A share of the loop for five rounds is time for some thousands, fewer on a slow machine.
SOME = 100


@pytest.mark.parametrize("odd", [False, True])
def test_random_names_leave_tunnels_their_speed(
    node_with: Callable[..., AbstractContextManager[Besieged]], odd: bool
) -> None:
    """Whatever a query costs, and whoever asks: names are random, networks a hundred. Odd queries cost ten times as
    much as usual ones. What is above the share waits with the system (test_server.py has the share alone)."""
    with node_with("--dns-listen", "127.0.0.1:0") as node:
        host, _, port = node.dns.rpartition(":")
        flood = DnsFlood(host, int(port), "fra.localhost", rate=8_000, odd=odd)
        figures, report, share = node.flooded_with_queries(flood)
        print(f"{figures}; {report}; DNS took {share:.2f} of the loop")
        assert figures.ratio >= 0.8, figures
        assert figures.grown < 16, figures
        assert share < MOST
        assert report.received > SOME

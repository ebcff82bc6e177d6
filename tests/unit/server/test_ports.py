"""Ports that are wanted beside those that programs have."""

import pytest
from portway_server.ports import Holder, Wanted, conflicts


@pytest.mark.parametrize(
    ("wanted", "held", "conflict"),
    [
        ("", "127.0.0.1", True),
        ("", "::", True),
        ("45.76.1.7", "0.0.0.0", True),
        ("45.76.1.7", "::", True),
        ("45.76.1.7", "::ffff:45.76.1.7", True),
        ("45.76.1.7", "45.76.1.7", True),
        ("45.76.1.7", "127.0.0.53", False),
        ("2a05::7", "0.0.0.0", False),
        ("2a05::7", "::", True),
    ],
)
def test_addresses_that_overlap(wanted: str, held: str, conflict: bool) -> None:
    """A wildcard is every address of its family; that of IPv6 is IPv4's too."""
    told = conflicts([Wanted("udp", wanted, 53, "DNS")], [Holder("udp", held, 53, "named (pid 4)")])
    assert bool(told) == conflict


def test_other_protocols_and_ports_are_no_conflict() -> None:
    wanted = [Wanted("tcp", "", 443, "visitors")]
    assert conflicts(wanted, [Holder("udp", "::", 443, "quic"), Holder("tcp", "::", 444, "other")]) == []


def test_a_program_that_the_system_does_not_name() -> None:
    """Without root, of other users."""
    (told,) = conflicts([Wanted("tcp", "", 443, "visitors")], [Holder("tcp", "::", 443, "")])
    assert told == "TCP port 443 (visitors) is taken by another user's program"

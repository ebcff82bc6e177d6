"""How what was asked is judged."""

from datetime import UTC, datetime

import pytest
from portway_proto.v1.admin_pb2 import ZoneCertificateInfo
from portway_proto.v1.types_pb2 import (
    NODE_STATE_CORDONED,
    NODE_STATE_DRAINING,
    NODE_STATE_READY,
    REACH_FAILED,
    REACH_REACHED,
    NodeInfo,
)
from portway_registry.doctor.delegation import Referral
from portway_server.status import Level, certificate_failure, certificates_of, node_finding, strangers, unlisted

NOW = datetime(2026, 11, 30, tzinfo=UTC)
DAY = 86_400


@pytest.mark.parametrize(
    ("name", "days", "level"),
    [
        ("fra.tun.example.com", 30, Level.GOOD),
        ("fra.tun.example.com", 3, Level.WARNING),
        ("fra.tun.example.com", -1, Level.BAD),
        ("node", 1, Level.GOOD),
        ("node", -1, Level.BAD),
        ("public", 3, Level.WARNING),
    ],
)
def test_a_certificate_is_judged_by_its_end(name: str, days: int, level: Level) -> None:
    """A node renews its own one, which lives for two days, each day."""
    program = "registry" if name == "public" else "relay"
    metric = f'portway_{program}_certificate_end_timestamp_seconds{{certificate="{name}"}}'
    (found,) = certificates_of(f"# HELP x\n{metric} {NOW.timestamp() + days * DAY}\n", NOW)
    assert (found.what, found.level) == (f"certificate {name}", level)


def test_a_region_without_a_certificate_is_named() -> None:
    metric = "portway_relay_region_certificate_missing"
    (found,) = certificates_of(f'{metric}{{region="fra"}} 0.0\n{metric}{{region="iad"}} 1.0\n', NOW)
    assert (found.what, found.level) == ("certificate of iad", Level.WARNING)


@pytest.mark.parametrize(
    ("state", "reach", "level"),
    [
        (NODE_STATE_READY, REACH_REACHED, Level.GOOD),
        (NODE_STATE_DRAINING, REACH_REACHED, Level.WARNING),
        (NODE_STATE_READY, REACH_FAILED, Level.BAD),
    ],
)
def test_a_node_is_judged_by_its_state_and_whether_it_is_reached(state: "int", reach: "int", level: Level) -> None:
    node = NodeInfo(name="fra-1", region="fra", host="45.76.1.7", port=443)
    node.state, node.reach = state, reach  # type: ignore[assignment]
    assert node_finding(node).level is level


def test_a_node_that_waits_for_its_certificate_is_not_called_cordoned() -> None:
    """Nobody ordered it, so that no order ends it."""
    node = NodeInfo(name="iad-1", region="iad", domain="tun.example.com", host="45.76.1.8", port=443, lacking_regions=1)
    node.state = NODE_STATE_CORDONED
    found = node_finding(node)
    assert (found.level, found.text.partition(",")[0]) == (Level.WARNING, "no certificate of its region yet")
    node.zones.append("iad.tun.example.com")
    assert node_finding(node).text.startswith("cordoned, ")


@pytest.mark.parametrize(
    ("until", "failures", "level", "says"),
    [
        (0, 0, Level.WARNING, "is being obtained"),
        (0, 2, Level.BAD, "not obtained: no answer; tried again at 00:01:00 UTC"),
        (5, 1, Level.WARNING, "not renewed: no answer"),
        (5, 0, None, ""),
    ],
)
def test_a_certificate_that_is_not_there_says_why(until: int, failures: int, level: Level | None, says: str) -> None:
    """As the registry says it; one that is there is judged by its end."""
    info = ZoneCertificateInfo(
        zone="tun.example.com", until_ms=until, failures=failures, failure="no answer", retry_at_ms=60_000
    )
    found = certificate_failure(info)
    assert (found and found.level, says in found.text if found else True) == (level, True)
    told = "" if found is None else "".join(found.more)
    assert ("`portway-admin certificate renew tun.example.com`" in told) == bool(failures)


def test_name_servers_that_the_zone_above_does_not_name_are_found() -> None:
    """And those that it has an older address of."""
    known = [(f"ns{number}.tun.example.com", (f"192.0.2.{number}",)) for number in (1, 2, 3)]
    led = Referral("example.com", servers=(known[0], ("ns2.tun.example.com", ("192.0.2.99",))))
    assert unlisted(known, led) == known[1:]
    assert unlisted(known[:1], led) == []


def test_name_servers_that_only_the_zone_above_names_are_found() -> None:
    """Of a machine that was taken away, say; nothing is known of them while the cluster's are not."""
    known = [(f"ns{number}.tun.example.com", (f"192.0.2.{number}",)) for number in (1, 2)]
    led = Referral("example.com", servers=(known[0], ("ns3.tun.example.com", ("192.0.2.3",))))
    assert strangers(known, led) == ["ns3.tun.example.com"]
    assert strangers([*known, led.servers[1]], led) == []
    assert strangers([], led) == []

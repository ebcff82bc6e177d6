"""`portway-admin node`."""

import re
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import NODE_STATE_CORDONED, REACH_FAILED, REACH_REACHED, REACH_TRYING, NodeInfo
from portway_registry.admin_cli import output
from portway_registry.admin_cli.node import reached
from portway_testkit.clusters.admin_stage import Stage
from portway_testkit.clusters.node_stream import StreamEnded


def test_nodes_are_listed_for_people(stage: Stage) -> None:
    """A table with a line for each node, by name."""
    stage.node("lon-1", region="lon")
    stage.node("fra-1", sessions=3, max_sessions=10, certificate_end_s=1_800_000_000)
    lines = stage.say("node", "list").stdout.splitlines()
    columns = "NAME REGION ADDRESS STATE SESSIONS TUNNELS VISITS VERSION SINCE ENDS REACHED"
    assert " ".join(lines[1].split()) == columns
    fra, lon = (line.split() for line in lines[3:5])
    assert fra[:8] == ["fra-1", "fra", "127.0.0.1:443", "ready", "3/10", "0", "0", "1.2.3"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", " ".join(fra[8:10]))
    assert fra[10:] == ["2027-01-15", "yes"]
    assert lon[10:] == ["-", "yes"]
    assert lon[:5] == ["lon-1", "lon", "127.0.0.1:443", "ready", "0"]


def test_nodes_are_listed_for_programs(stage: Stage) -> None:
    """All that is known of each, with the protocol's names."""
    stage.node("fra-1", latitude=50.5, longitude=8.5, host="2001:db8::1", state=NODE_STATE_CORDONED)
    (node,) = stage.ask("node", "list")["nodes"]
    assert node.pop("started_at_ms") > 1_700_000_000_000
    assert node == {
        "name": "fra-1",
        "region": "fra",
        "domain": "tunnels.example",
        "host": "2001:db8::1",
        "port": 443,
        "server_name": "fra-1.node.portway.internal",
        "state": "cordoned",
        "reach": "unchecked",
        "reach_failure": None,
        "sessions": 0,
        "max_sessions": None,
        "tunnels": 0,
        "visits": 0,
        "latitude": 50.5,
        "longitude": 8.5,
        "version": "1.2.3",
        "certificate_end_s": None,
        "lacking_regions": 0,
        "addresses": [],
        "dns": False,
        "dns_version": 0,
        "zones": [],
        "clock_ahead_s": 0,
    }


@pytest.mark.parametrize(("ahead", "way"), [(7_200, "ahead of"), (-7_200, "behind")])
def test_a_wrong_clock_is_no_ready_node(stage: Stage, ahead: int, way: str) -> None:
    """It gets no clients: lists say why. One that is a little off is ready, and told of."""
    stage.node("far", clock=ahead)
    stage.node("near", clock=ahead // 100)
    far, near = stage.ask("node", "list")["nodes"]
    assert (far["state"], near["state"]) == ("wrong clock", "ready")
    assert far["clock_ahead_s"] == pytest.approx(ahead, abs=5)
    assert stage.say("node", "list").stdout.count("wrong clock") == 1
    shown = [stage.say("node", "show", name).stdout for name in ("far", "near")]
    assert all(re.search(rf"clock +\d+ s {way} the registry's: set it right", text) for text in shown)


@pytest.mark.parametrize(
    ("reach", "failure", "said"),
    [
        (REACH_REACHED, "", "yes"),
        (REACH_REACHED, "in no DNS answer: 192.0.2.1, …", "yes; in no DNS answer: 192.0.2.1, …"),
        (REACH_FAILED, "unreachable", "no: unreachable"),
        (REACH_TRYING, "", "not yet"),
    ],
)
def test_where_a_node_was_reached_is_said(reach: int, failure: str, said: str) -> None:
    """Of the advertised address, and of a public one at which it was not."""
    assert reached(NodeInfo(reach=reach, reach_failure=failure)) == said  # type: ignore[arg-type]


def test_what_is_not_known_is_null(stage: Stage) -> None:
    """A position on the equator or on the meridian of Greenwich is one."""
    for name, latitude, longitude in (("a", 0.0, 0.0), ("b", 0.0, 32.5), ("c", 51.5, 0.0)):
        stage.node(name, latitude=latitude, longitude=longitude)
    nodes = stage.ask("node", "list")["nodes"]
    assert [(one["latitude"], one["longitude"]) for one in nodes] == [(None, None), (0.0, 32.5), (51.5, 0.0)]
    shown = [stage.say("node", "show", name).stdout for name in "abc"]
    assert ["unknown" in text for text in shown] == [True, False, False]
    assert "0.00, 32.50" in shown[1]


def test_at_80_columns_names_are_whole(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whether a node takes clients; what has no room is named."""
    names = [f"{region}-relay-with-a-long-name-1" for region in ("fra", "lon")]
    for name in names:
        stage.node(name, host=f"{name}.example.com")
    monkeypatch.setattr(output, "_room", lambda: 80)
    lines = stage.say("node", "list").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[:3] for line in lines[3:5]] == [[name, "fra", "ready"] for name in names]
    assert "REACHED" in lines[1]
    assert "No room for ADDRESS, VERSION, SINCE, ENDS: " in "\n".join(lines)


def test_a_region_is_kept_to(stage: Stage) -> None:
    """Only its nodes; none is said in words, or as an empty list."""
    stage.node("lon-1", region="lon")
    stage.node("fra-1")
    assert [node["name"] for node in stage.ask("node", "list", "--region", "lon")["nodes"]] == ["lon-1"]
    assert stage.ask("node", "list", "--region", "syd") == {"nodes": []}
    assert stage.say("node", "list", "--region", "syd").stdout == "No node in region syd is registered.\n"


def test_one_node_is_shown(stage: Stage) -> None:
    """Field by field for people, as one object for programs."""
    place: dict[str, Any] = {"latitude": 50.1, "longitude": 8.68}
    stage.node("fra-1", host="2001:db8::1", max_sessions=7, certificate_end_s=1_800_000_000, lacking_regions=2, **place)
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in stage.say("node", "show", "fra-1").stdout.splitlines())
    assert lines["address"] == "[2001:db8::1]:443"
    assert lines["serves"] == "*.fra.tunnels.example"
    assert lines["sessions"] == "0 of 7"
    assert lines["position"] == "50.10, 8.68"
    assert lines["certificate ends"] == "2027-01-15 08:00:00Z"
    assert lines["lacks"] == "the certificates of 2 regions: its log names them"
    shown = stage.ask("node", "show", "fra-1")
    assert (shown["max_sessions"], shown["certificate_end_s"], shown["lacking_regions"]) == (7, 1_800_000_000, 2)


def test_a_node_that_is_not_there_is_one(stage: Stage) -> None:
    """Not found is an error, with the command that lists what there is."""
    result = stage.say("node", "show", "none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "portway-admin: no node 'none' is known: see `portway-admin node list`\n"


def test_what_a_node_says_of_itself_cannot_steer_the_terminal(stage: Stage) -> None:
    """A node that is broken into may lie in a table, not repaint the screen: it is refused. Whatever was stored in
    spite of that is filtered where it is printed."""
    with pytest.raises(StreamEnded) as refused:
        stage.node("fra-1", version="1\x1b[2J\n9")
    assert "version" in refused.value.details
    stage.say("token", "create", "--tenant", "demo", "--description", "1\x1b[2J\n9")
    shown = stage.say("token", "list").stdout
    assert "\x1b" not in shown
    assert "1\ufffd[2J\ufffd9" in shown


def test_orders_are_given_and_taken_back(stage: Stage) -> None:
    """In words for people, as an object for programs."""
    stage.node("fra-1")
    assert stage.say("node", "drain", "fra-1").stdout == "fra-1 drains: its clients attach to other nodes\n"
    assert stage.say("node", "cordon", "fra-1").stdout == "fra-1 takes no new clients\n"
    assert stage.ask("node", "undrain", "fra-1") == {"node": "fra-1", "order": "serve"}
    assert stage.say("node", "serve", "fra-1").exit_code == 0


def test_a_node_that_nobody_knows_gets_no_order(stage: Stage) -> None:
    """A name with a typing error must not stand in the store for ever."""
    result = stage.say("node", "drain", "fra-9")
    assert result.exit_code == 1
    assert "no node 'fra-9' is known" in result.stderr


def test_a_node_is_invited(stage: Stage) -> None:
    """The token alone on stdout, with where it is from behind it; the rest is for people."""
    result = stage.say("node", "invite", "--region", "fra", "--name", "fra-7", "--ttl", "30m")
    assert result.exit_code == 0
    assert re.fullmatch(rf"pwj_[a-z0-9]+_[a-z2-7]{{32}}@{re.escape(stage.address)}\n", result.stdout)
    assert "node fra-7 of region fra may join" in result.stderr
    told = stage.ask("node", "invite", "--region", "fra")
    assert told["token"].startswith(f"pwj_{told['id']}_")
    assert told["node"] is None
    assert told["expires_at_ms"] - told["created_at_ms"] == 3_600_000
    elsewhere = stage.ask("node", "invite", "--region", "fra", "--join-at", "registry.example.com:7400")
    assert elsewhere["token"].endswith("@registry.example.com:7400")
    through_a_node = stage.ask("node", "invite", "--region", "fra", "--join-at", "tun.example.com")
    assert through_a_node["token"].endswith("@tun.example.com")
    shown = stage.say("invitations", "list").stdout
    assert told["id"] in shown
    assert told["token"].split("_")[2][:32] not in shown


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--region", "Fra"), 1, "not a region name"),
        (("--region", "fra", "--name", "a b"), 1, "not a node name"),
        (("--region", "fra", "--ttl", "31d"), 1, "at most 30 days"),
        (("--region", "fra", "--ttl", "0s"), 2, "such as 30m"),
        (("--region", "fra", "--ttl", "soon"), 2, "such as 30m"),
        (("--region", "fra", "--join-at", "registry.example.com:"), 2, "write HOST or HOST:PORT"),
        (("--region", "fra", "--join-at", "a:b"), 2, "write HOST or HOST:PORT"),
        ((), 2, "--region"),
    ],
)
def test_an_invitation_that_cannot_be_made_is_told(
    stage: Stage, arguments: tuple[str, ...], code: int, says: str
) -> None:
    """Names, times, and what is needed."""
    result = stage.say("node", "invite", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr

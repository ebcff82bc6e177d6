"""portway.netcheck: a table for people, an object for programs."""

import json
from dataclasses import replace

from portway.config import RETURN_TIMES, ReturnTimes
from portway.engine.directory import Expected, Node
from portway.engine.survey import MeasuredNode, Survey, SurveyedNode, pick, pick_later
from portway.netcheck import as_json, as_table
from portway_runtime.endpoints import Endpoint


def surveyed(
    name: str, region: str, expected: Expected, km: float = 0.0, load: int = 0, state: str = "ready"
) -> SurveyedNode:
    return SurveyedNode(
        Node(name, region, Endpoint("192.0.2.1", 443), f"{name}.test", "tunnels.test"), state, expected, km, load
    )


MEASURED = (
    MeasuredNode(surveyed("fra-1", "fra", Expected(12, True), 35.2), 11.84, 0.0262),
    MeasuredNode(
        surveyed("par-1", "par", Expected(8.4, False), 402.0, 3), None, 0.001, "Connection refused", "refused"
    ),
    MeasuredNode(surveyed("fra-2", "fra", Expected(0, False), 0.0, 0, "draining"), 250.4, 0.51),
)
NODES = tuple(one.node for one in MEASURED)
KNOWN = Survey("registry.test:7400", NODES, 3, b"ca", "203.0.113.7", "DE", (50.0, 8.5))
UNKNOWN = Survey("registry.test:7400", NODES, 40, b"ca", "10.0.0.1")


def test_the_table_has_every_node_by_region() -> None:
    """With who is picked, and what is wrong with the others; columns stand below each other."""
    assert as_table(KNOWN, MEASURED, pick(MEASURED)).splitlines() == [
        "registry  registry.test:7400",
        "client    203.0.113.7, for GeoIP in DE, at 50, 8.5",
        "",
        "REGION  NODE   ROUND TRIP  READY AFTER  EXPECTED             DISTANCE   LOAD  ADDRESS",
        "fra     fra-1     11.8 ms      26.2 ms  12.0 ms, learned        35 km      -  192.0.2.1:443  <- picked",
        "fra     fra-2      250 ms       510 ms  -                           -      -  192.0.2.1:443  draining",
        (
            "par     par-1           -            -  8.4 ms, by distance    402 km  +3 ms  192.0.2.1:443  "
            "not reached: refused"
        ),
        "not reached: 1 of 3",
        "",
        "picked: fra-1 in fra, ready after 26.2 ms: the first of the order, and ready before the 1 dialled after it",
    ]


def test_what_is_not_known_is_said() -> None:
    """Where the client is, nodes that are not shown, and that nobody can be reached."""
    lines = as_table(UNKNOWN, MEASURED, None).splitlines()
    assert lines[1].startswith("client    10.0.0.1, unknown to GeoIP: nodes of regions far apart are tried")
    assert lines[-4] == "and 37 more nodes of these regions"
    assert lines[-1] == "picked: none, for no node that takes clients can be reached"


def test_a_nearer_node_than_the_winner_is_named() -> None:
    """It was ready too late for the race, and is gone to minutes later; one that is full or hardly nearer is not."""
    race = (
        MeasuredNode(surveyed("fra-1", "fra", Expected(80, False)), 90.0, 0.2),
        MeasuredNode(surveyed("ams-1", "ams", Expected(90, False)), 85.0, 0.205),
        MeasuredNode(surveyed("nrt-1", "nrt", Expected(250, False)), 240.0, 0.49),
        MeasuredNode(surveyed("lon-1", "lon", Expected(110, False)), 12.0, 0.03),
        MeasuredNode(surveyed("par-1", "par", Expected(10, False), state="full"), 9.0, 0.02),
    )
    measured = (*race[:3], replace(race[3], took=0.18), race[4])
    picked = pick(race[:3])
    assert picked is not None
    assert picked.measured is race[0]
    assert pick_later(race[:3], picked, RETURN_TIMES) is None
    assert pick_later(measured, picked, RETURN_TIMES) is None, "its handshake took too long"
    assert pick_later(race, picked, RETURN_TIMES) is None, "a registry expects it to be farther"
    near = replace(race[3], node=replace(race[3].node, expected=Expected(20, False)))
    nearer = (*race[:3], near, race[4])
    assert pick_later(nearer, picked, RETURN_TIMES) is near
    assert pick_later(nearer, picked, ReturnTimes(look=1, rest=1, ready=1, spread=1, pause=1)) is near
    assert pick_later(nearer, picked, None) is None, "a tunnel never returns"
    assert as_table(KNOWN, race, picked, near).splitlines()[-1] == (
        "later: lon-1 in lon, which is clearly nearer: a tunnel goes there by itself"
    )
    assert json.loads(as_json(KNOWN, race, picked, near))["later"] == "lon-1"
    assert json.loads(as_json(KNOWN, race, picked))["later"] is None


def test_json_has_the_same() -> None:
    """On one line, with null for what is not known."""
    text = as_json(KNOWN, MEASURED, pick(MEASURED))
    assert "\n" not in text
    told = json.loads(text)
    assert (told["picked"], told["ready_ms"], told["nodes"]) == ("fra-1", 26.2, 3)
    assert told["client"] == {"address": "203.0.113.7", "country": "DE", "latitude": 50.0, "longitude": 8.5}
    assert [(region["region"], [node["name"] for node in region["nodes"]]) for region in told["regions"]] == [
        ("fra", ["fra-1", "fra-2"]),
        ("par", ["par-1"]),
    ]
    assert told["regions"][1]["nodes"][0] == {
        "name": "par-1",
        "address": "192.0.2.1:443",
        "proxy": None,
        "state": "ready",
        "reached": False,
        "not_reached": "refused",
        "rtt_ms": None,
        "ready_ms": None,
        "problem": "Connection refused",
        "expected_rtt_ms": 8.4,
        "learned": False,
        "distance_km": 402.0,
        "load_ms": 3,
    }
    reached = told["regions"][0]["nodes"][0]
    assert (reached["reached"], reached["not_reached"], reached["problem"]) == (True, None, "")
    nothing = json.loads(as_json(UNKNOWN, MEASURED, None))
    assert (nothing["picked"], nothing["ready_ms"], nothing["client"]["latitude"]) == (None, None, None)


def test_what_a_registry_says_controls_no_terminal() -> None:
    """The table shows it without control characters; programs read it as it was."""
    survey = replace(KNOWN, address="192.0.2.7\n\x1b[2J", country="D\rE")
    assert as_table(survey, MEASURED, None).splitlines()[1] == "client    192.0.2.7��[2J, for GeoIP in D�E, at 50, 8.5"
    text = as_json(survey, MEASURED, None)
    assert text.isprintable()
    assert (json.loads(text)["client"]["address"], json.loads(text)["client"]["country"]) == (
        survey.address,
        survey.country,
    )

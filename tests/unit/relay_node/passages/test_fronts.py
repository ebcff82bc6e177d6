"""What a node knows of the registry's replicas."""

import logging

import pytest
from portway_proto.v1.mesh_pb2 import RegistryFront, RegistryFronts
from portway_relay.passages import fronts as fronts_module
from portway_relay.passages import measuring as measuring_module
from portway_relay.passages.fronts import Front, Fronts
from portway_runtime.endpoints import Endpoint
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.registry_replicas import KEY, NAME, BlackHole, PassingNode, Replica
from portway_testkit.links.carrier_link import until


def order(fronts: Fronts) -> list[str]:
    return [front.replica for front in fronts.in_order()]


async def test_the_nearest_that_answers_comes_first(stage: PassingNode, replicas: list[Replica]) -> None:
    """Then those that were not measured, and last those that did not answer; of equal ones the last good one."""
    stage.learn(*replicas, Replica("r-3", port=1), Replica("r-4", port=2))
    one, two, three, _ = stage.fronts.in_order()
    one.round_trip, two.round_trip, three.round_trip = 0.080, 0.0101, 0.0107
    assert order(stage.fronts) == ["r-2", "r-3", "r-1", "r-4"]
    stage.fronts.answered(three)
    assert order(stage.fronts) == ["r-3", "r-2", "r-1", "r-4"]
    stage.fronts.failed(three)
    stage.fronts.failed(two)
    assert order(stage.fronts) == ["r-1", "r-4", "r-3", "r-2"]
    stage.fronts.answered(two)
    assert order(stage.fronts) == ["r-2", "r-1", "r-4", "r-3"]


async def test_a_caller_comes_last_to_those_that_did_not_answer_it(stage: PassingNode) -> None:
    """The latest at the end; before those only that are away."""
    stage.learn(*(Replica(f"r-{number}", port=number) for number in (1, 2, 3)))
    one, two, three = stage.fronts.in_order()
    one.round_trip, two.round_trip, three.round_trip = 0.01, 0.02, 0.03

    def led(silent_at: dict[Front, float]) -> list[str]:
        return [front.replica for front in stage.fronts.in_order(silent_at)]

    assert led({one: 5.0}) == ["r-2", "r-3", "r-1"]
    assert led({one: 5.0, two: 4.0}) == ["r-3", "r-2", "r-1"]
    assert led({one: 5.0, two: 4.0, three: 6.0}) == ["r-2", "r-1", "r-3"]
    stage.fronts.failed(three)
    assert led({one: 5.0}) == ["r-2", "r-1", "r-3"]


def test_who_did_not_answer_gets_another_chance() -> None:
    """After a while, and it is told of in the log each time it falls silent."""
    clock = ManualClock()
    fronts = Fronts(clock)
    replicas = [Replica("r-1", port=1), Replica("r-2", port=2)]
    fronts.learn(RegistryFronts(name=NAME, key=KEY, fronts=[one.front for one in replicas]))
    one, other = fronts.in_order()
    one.round_trip, other.round_trip = 0.01, 0.02
    fronts.failed(one)
    assert order(fronts) == ["r-2", "r-1"]
    clock.now += fronts_module._AWAY
    assert order(fronts) == ["r-1", "r-2"]


async def test_round_trips_are_measured(
    stage: PassingNode, replicas: list[Replica], black_hole: BlackHole, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all, when there are several, as soon as they are known; nothing is sent."""
    monkeypatch.setattr(measuring_module, "_REACHED_WITHIN", 1.0)  # by those that answer, too
    await black_hole.start()
    gone = Replica("gone")
    await gone.start()
    await gone.stop()
    stage.measuring.start()
    stage.learn(replicas[0])
    stage.learn(gone, black_hole, *replicas)
    await until(lambda: sum(front.round_trip is not None for front in stage.fronts.in_order()) == 2)
    await until(lambda: sum(front.away_until > 0 for front in stage.fronts.in_order()) == 2)
    assert set(order(stage.fronts)[:2]) == {"r-1", "r-2"}
    assert replicas[0].headers == []
    await black_hole.stop()


async def test_a_new_list_replaces_the_one_before(stage: PassingNode, replicas: list[Replica]) -> None:
    """What was measured is kept, unless a replica has started anew: it has another id then."""
    stage.learn(*replicas)
    for front in stage.fronts.in_order():
        front.round_trip = 0.01
    again = Replica("r-1-anew", port=replicas[0].port)
    stage.learn(again, replicas[1])
    assert {front.replica: front.round_trip for front in stage.fronts.in_order()} == {"r-1-anew": None, "r-2": 0.01}


@pytest.mark.parametrize(
    "message",
    [
        RegistryFronts(),
        RegistryFronts(name=NAME, fronts=[RegistryFront(replica="r", address="127.0.0.1:1")]),
        RegistryFronts(name=NAME, key=b"short"),
    ],
)
async def test_without_a_name_or_a_key_nothing_is_passed_on(stage: PassingNode, message: RegistryFronts) -> None:
    """As from a registry without a domain; the name from before counts no more."""
    stage.learn(Replica("r-1", port=1))
    assert stage.passages.name == NAME
    stage.fronts.learn(message)
    assert stage.passages.name == ""


async def test_what_is_malformed_is_passed_over(stage: PassingNode, caplog: pytest.LogCaptureFixture) -> None:
    """And told of; the other replicas stay of use. A name counts in any case."""
    addresses = ["nowhere", "[::1]:7400", "a:b", "r.example.com:443"]
    fronts = [RegistryFront(replica=f"r-{number}", address=one) for number, one in enumerate(addresses)]
    fronts += [RegistryFront(replica="", address="127.0.0.1:1"), RegistryFront(replica="r" * 81, address="127.0.0.1:1")]
    with caplog.at_level(logging.WARNING):
        stage.fronts.learn(RegistryFronts(name=NAME.upper(), key=KEY, fronts=fronts))
    assert [front.address for front in stage.fronts.in_order()] == [
        Endpoint("::1", 7400),
        Endpoint("r.example.com", 443),
    ]
    assert stage.passages.name == NAME
    assert len(caplog.records) == 2

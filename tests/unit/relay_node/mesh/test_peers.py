"""The other nodes, on real sockets: peers.py and control_lane.py at one end, inbound_lanes.py at the other."""

import asyncio
import math
import time
from typing import Any

import pytest
import trustme
from portway_proto.v1.lane_pb2 import Answer, Gone, Routes
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, NODE_STATE_READY, TunnelInfo
from portway_proto.wire.statements import sign_presence
from portway_relay.mesh import control_lane
from portway_relay.mesh import peers as peers_module
from portway_relay.mesh.control_lane import ControlLane
from portway_runtime.rates import TokenBucket
from portway_testkit.links.carrier_link import until
from portway_testkit.links.mesh_lanes import Make
from portway_testkit.signers import CLUSTER, SessionSigner


async def tunnels_at(asking: Any, region: str, label: str) -> list[TunnelInfo]:
    """What the nodes of a region say of a label when they are asked."""
    answers = await asking.peers.ask_region(region, label, None)
    return [answer.tunnel for _, answer in answers if answer.HasField("tunnel")]


async def test_a_sibling_is_told_everything_and_then_changes(make: Make) -> None:
    """By name, as its certificate says it; in the order in which it happens."""
    one, two = make("one"), make("two")
    first = one.hold("a" * 16)
    one.update_peers([one.info, two.info])
    await until(lambda: bool(two.heard))
    gone = Gone(label="a" * 16, epoch=1)
    one.peers.tell_siblings(Routes(gone=[gone]))
    one.peers.tell_siblings(Routes(bound=[first]))
    await until(lambda: len(two.heard) == 3)
    assert two.heard == [
        ("one", Routes(bound=[first], whole=True)),
        ("one", Routes(gone=[gone])),
        ("one", Routes(bound=[first])),
    ]
    assert len(one.peers) == 1


async def test_a_sibling_says_when_it_listens(make: Make) -> None:
    """Only news of raw ports are waited for, and all that were told before them have been heard then."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: two.wholes == [("one", set())])
    one.peers.tell_siblings(Routes(bound=[one.hold("a" * 16)]))
    assert one.peers.unacknowledged() == []
    raw = one.hold("b" * 16)
    raw.unencrypted_port = 20_003
    one.peers.tell_siblings(Routes(bound=[raw]))
    unacknowledged = one.peers.unacknowledged()
    assert len(unacknowledged) == 1
    await asyncio.wait_for(unacknowledged[0], 10)
    assert [routes.number for _, routes in two.heard] == [0, 0, 1]
    assert one.peers.unacknowledged() == []


async def test_a_sibling_that_is_lost_is_not_waited_for(make: Make) -> None:
    """Whatever it was told it hears again when it is back."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: bool(two.wholes))
    raw = one.hold("b" * 16)
    raw.unencrypted_port = 20_003
    one.peers.tell_siblings(Routes(bound=[raw]))
    unacknowledged = one.peers.unacknowledged()
    two.drop_lanes()
    await asyncio.wait_for(unacknowledged[0], 10)
    await until(lambda: ("one", {"b" * 16}) in two.wholes)
    await until(lambda: one.peers.unacknowledged() == [])


async def test_ports_are_acknowledged_in_their_order(make: Make) -> None:
    """A sibling that checks what it was shown says so when all that was told before is listened on."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: bool(two.wholes))
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    unacknowledged = []
    for letter, listening in (("b", first), ("c", second)):
        two.listening = [listening]
        raw = one.hold(letter * 16)
        raw.unencrypted_port = 20_003
        heard = len(two.heard)
        one.peers.tell_siblings(Routes(bound=[raw]))
        await until(lambda count=heard: len(two.heard) > count)  # type: ignore[misc]
        unacknowledged += one.peers.unacknowledged()
    second.set_result(None)
    two.listening = []
    assert not any(future.done() for future in unacknowledged)
    first.set_result(None)
    await asyncio.wait_for(asyncio.gather(*unacknowledged), 10)


async def test_sessions_are_told_before_their_tunnels(make: Make) -> None:
    """With the presence a tunnel is placed at once; many large ones take many frames."""
    one, two = make("one"), make("two")
    signer = SessionSigner()
    ids = [number.to_bytes(8) for number in range(1000)]
    one.sessions = [
        sign_presence(signer.key, CLUSTER, time_ms=time, node="one", ids=frozenset(ids)) for time in range(5)
    ]
    held = one.hold("a" * 16)
    one.update_peers([two.info])
    await until(lambda: bool(two.wholes))
    told = [presence for _, routes in two.heard for presence in routes.presences]
    assert told == [presence.encoded for presence in one.sessions]
    assert two.heard[-1][1] == Routes(bound=[held], presences=told[4:], whole=True)


async def test_a_node_that_is_not_known_yet_comes_again(make: Make) -> None:
    """What it told would not be believed before a registry has told of it."""
    one, two = make("one"), make("two")
    two.strangers.add("one")
    held = one.hold("a" * 16)
    one.update_peers([two.info])
    await until(lambda: two.carrier.counters.lanes_closed >= 2)
    assert two.heard == []
    two.strangers.clear()
    await until(lambda: two.heard == [("one", Routes(bound=[held], whole=True))])


async def test_a_node_of_another_version_says_why_it_is_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log of each of the two names the version that is spoken; what the older one tells does not count."""
    caplog.set_level("INFO", "portway_relay.mesh")
    monkeypatch.setattr(peers_module, "PROTOCOL_VERSION", 1)
    older, two = make("older"), make("two")
    older.hold("a" * 16)
    older.update_peers([two.info])
    await until(lambda: {"a node is refused", "peer lost"} <= {record.message for record in caplog.records})
    reasons = {record.message: getattr(record, "reason", "") for record in caplog.records}
    says = "this node speaks version 2 of the lane protocol, not 1"
    assert (reasons["a node is refused"], reasons["peer lost"]) == (says, f"it said: {says}")
    assert two.heard == []
    assert not two.inbound_lanes.connected


async def test_nodes_of_other_regions_are_told_nothing(make: Make) -> None:
    """They ask."""
    one, far = make("one"), make("far", "iad")
    held = one.hold("a" * 16)
    far.hold("b" * 16)
    one.update_peers([far.info])
    far.update_peers([one.info])
    await until(lambda: one.peers.answers("far") and far.peers.answers("one"))
    one.peers.tell_siblings(Routes(bound=[held]))
    assert await tunnels_at(far, "fra", "a" * 16) == [held]
    assert await tunnels_at(far, "fra", "c" * 16) == []
    assert await tunnels_at(far, "syd", "a" * 16) == []
    assert far.heard == []


async def test_much_is_told_in_many_frames(make: Make) -> None:
    """A node of thousands of tunnels stays below the limit of a frame."""
    one, two = make("one"), make("two")
    labels = ["".join("abcdefghij"[int(digit)] for digit in f"{number:016}") for number in range(2000)]
    for label in labels:
        one.hold(label).host = "h" * 200
    one.update_peers([two.info])
    await until(lambda: sum(len(routes.bound) for _, routes in two.heard) == len(labels))
    assert [tunnel.label for _, routes in two.heard for tunnel in routes.bound] == labels
    assert len(two.heard) > 10


async def test_an_answer_for_another_node_or_label_is_none(make: Make) -> None:
    """A node answers for itself alone, and for what it was asked."""
    one, liar = make("one"), make("liar")
    liar.hold("a" * 16, node="third")
    liar.holds["b" * 16] = liar.hold("c" * 16)
    one.update_peers([liar.info])
    await until(lambda: one.peers.answers("liar"))
    assert await tunnels_at(one, "fra", "a" * 16) == []
    assert await tunnels_at(one, "fra", "b" * 16) == []


async def test_a_node_that_does_not_answer_holds_nobody_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the others said counts; nothing of the question is left."""
    monkeypatch.setattr(peers_module, "_ANSWERED_WITHIN", 3.0)
    one, quick, silent = make("one"), make("quick"), make("silent")
    held = quick.hold("a" * 16)
    one.update_peers([quick.info, silent.info])
    await until(lambda: one.peers.answers("quick") and one.peers.answers("silent"))
    peer = one.peers.get("silent")
    assert peer is not None
    asked: list[str] = []

    async def ask(label: str) -> Answer | None:
        asked.append(label)
        await asyncio.Event().wait()
        return None

    monkeypatch.setattr(peer.control, "ask", ask)
    assert await tunnels_at(one, "fra", "a" * 16) == [held]
    assert asked == ["a" * 16]


async def test_a_lost_node_is_found_again(make: Make, authority: trustme.CA) -> None:
    """Its control lane is dialled until it is back, and it is told everything then."""
    one, two = make("one"), make("two")
    one.hold("a" * 16)
    one.update_peers([two.info])
    await until(lambda: len(two.heard) == 1)
    two.drop_lanes()
    await until(lambda: len(two.heard) == 2)
    assert two.heard[0] == two.heard[1]


async def test_a_node_that_is_listed_no_more_is_kept_while_it_answers(make: Make) -> None:
    """Absence from a list removes nothing that works."""
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: one.peers.answers("two"))
    one.update_peers([])
    assert one.peers.answers("two")
    assert one.peers.pool_of("two") is not None


async def test_a_node_that_is_listed_no_more_and_silent_is_dropped(make: Make) -> None:
    """It is not dialled for ever."""
    one, two = make("one"), make("two")
    info = two.info
    await two.stop()
    one.update_peers([info])
    assert len(one.peers) == 1
    one.update_peers([])
    assert len(one.peers) == 0
    assert one.peers.pool_of("two") is None
    assert not one.peers.answers("two")


async def test_a_node_says_what_its_clients_have_closed(make: Make) -> None:
    """Asked for a label that it held, whatever region it is of."""
    one, two, far = make("one"), make("two"), make("far", "iad")
    two.closed["a" * 16] = 3
    far.closed["a" * 16] = 4
    one.update_peers([two.info, far.info])
    await until(lambda: one.peers.answers("two") and one.peers.answers("far"))
    for also, said in ((None, {"two": 3}), ("far", {"two": 3, "far": 4}), ("nobody", {"two": 3})):
        answers = await one.peers.ask_region("fra", "a" * 16, also)
        assert {node: answer.closed_epoch for node, answer in answers} == said


async def test_without_a_registry_nodes_of_other_regions_are_asked(make: Make) -> None:
    """For what those of the label's region do not have: its client may have fled. With a registry it is the one that
    knows."""
    one, two, far = make("one"), make("two"), make("far", "iad")
    away, near = far.hold("a" * 16), two.hold("b" * 16)
    one.update_peers([two.info, far.info])
    await until(lambda: one.peers.answers("two") and one.peers.answers("far"))
    assert await tunnels_at(one, "fra", "a" * 16) == []
    one.peers.registry_away = True
    assert await tunnels_at(one, "fra", "a" * 16) == [away]
    assert await tunnels_at(one, "fra", "b" * 16) == [near]
    assert await tunnels_at(one, "fra", "c" * 16) == []


async def test_questions_to_other_regions_have_a_rate(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of questions and not of labels: each costs as many as there are nodes. The region's own are asked above it."""
    monkeypatch.setattr(peers_module, "_FAR_QUESTIONS", 2)
    one, two, far, other = make("one"), make("two"), make("far", "iad"), make("other", "iad")
    one.peers.registry_away = True
    two.hold("b" * 16)
    far.hold("a" * 16)
    one.update_peers([two.info, far.info, other.info])
    await until(lambda: all(one.peers.answers(name) for name in ("two", "far", "other")))
    one.peers._far_questions = TokenBucket(0.001, 3, time.monotonic)
    assert len(await tunnels_at(one, "fra", "a" * 16)) == 1
    assert await tunnels_at(one, "fra", "a" * 16) == []
    assert len(await tunnels_at(one, "fra", "b" * 16)) == 1


async def test_those_that_were_entered_at_are_told_of_the_end(make: Make) -> None:
    """Nodes of other regions that had visitors of a tunnel; its siblings hear of everything anyway."""
    one, two, far, other = make("one"), make("two"), make("far", "iad"), make("other", "iad")
    one.update_peers([two.info, far.info, other.info])
    await until(lambda: all(one.peers.answers(name) for name in ("two", "far", "other")))
    gone = Gone(label="a" * 16, epoch=1, closed=True)
    one.peers.tell_far(Routes(gone=[gone]), {"two", "far", "unknown"})
    await until(lambda: bool(far.heard))
    assert far.heard == [("one", Routes(gone=[gone]))]
    assert not any(routes.gone for _, routes in two.heard + other.heard)


async def test_every_node_is_told_this_ones_state(make: Make) -> None:
    """Of whatever region, when it is reached and at each change, so that it is known with no registry there."""
    one, two, far = make("one"), make("two"), make("far", "iad")
    one.update_peers([two.info, far.info])
    await until(lambda: all(node.states == [("one", NODE_STATE_READY)] for node in (two, far)))
    one.peers.tell_state(NODE_STATE_READY)
    one.peers.tell_state(NODE_STATE_DRAINING)
    await until(lambda: all(node.states[1:] == [("one", NODE_STATE_DRAINING)] for node in (two, far)))
    far.drop_lanes()
    await until(lambda: len(far.states) == 3)
    assert far.states[2] == ("one", NODE_STATE_DRAINING)


async def test_a_node_has_the_state_that_it_told_until_it_is_listed_anew(make: Make) -> None:
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    one.peers.hear_state("two", NODE_STATE_DRAINING)
    one.peers.hear_state("unknown", NODE_STATE_DRAINING)
    assert [peer.info.state for peer in one.peers.all()] == [NODE_STATE_DRAINING]
    assert two.info.state != NODE_STATE_DRAINING
    info = two.info
    info.state = NODE_STATE_READY
    one.update_peers([info])
    assert [peer.info.state for peer in one.peers.all()] == [NODE_STATE_READY]


async def test_a_node_is_lost_once_it_was_not_reached(make: Make) -> None:
    """Not while it is dialled for the first time: a node that has just started knows nothing bad of any other."""
    one, two, three = make("one"), make("two"), make("three")
    gone = three.info
    await three.stop()
    one.update_peers([two.info, gone])
    assert [peer.control.lost for peer in one.peers.all()] == [False, False]
    await until(lambda: [peer.control.lost for peer in one.peers.all()] == [False, True])
    await until(lambda: one.peers.answers("two"))
    await two.stop()
    await until(lambda: [peer.control.lost for peer in one.peers.all()] == [True, True])


async def test_links_have_their_round_trips(make: Make) -> None:
    """The kernel's, from the handshake of the control lane."""
    one, two = make("one"), make("two")
    one.update_peers([one.info, two.info])
    await until(lambda: one.peers.answers("two"))
    (link,) = one.peers.links()
    assert (link.node, link.failure) == ("two", "")
    assert 0 < link.round_trip_us < 1_000_000


async def test_a_link_is_down_after_a_while(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once: a node that restarts is back by then. Those that are down come first, with the reason."""
    one, two, three = make("one"), make("two"), make("three")
    one.update_peers([two.info, three.info])
    await until(lambda: one.peers.answers("two") and one.peers.answers("three"))
    await until(lambda: "one" in three.inbound_lanes.connected)
    three.stop_listening()
    three.drop_lanes()
    await until(lambda: not one.peers.answers("three"))
    assert not any(link.failure for link in one.peers.links())
    monkeypatch.setattr(control_lane, "_DOWN_AFTER", 0.0)
    await until(lambda: "refused" in one.peers.links()[0].failure)
    assert [link.node for link in one.peers.links()] == ["three", "two"]


async def test_how_long_a_node_has_been_away_is_known(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at all while its control lane is up; for ever when nobody has named it."""
    monkeypatch.setattr(ControlLane, "_has_served", lambda _: True)
    one, two = make("one"), make("two")
    one.update_peers([two.info])
    await until(lambda: one.peers.answers("two") and "one" in two.inbound_lanes.connected)
    assert one.peers.down_for("two") == 0.0
    assert one.peers.down_for("nobody") == math.inf
    two.stop_listening()
    two.drop_lanes()
    await until(lambda: one.peers.down_for("two") > 0.01)
    assert one.peers.down_for("two") < 10.0


async def test_a_link_that_is_refused_again_and_again_is_down(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is up for a moment each time: it is of no use, and the time counts from the beginning."""
    one, two = make("one"), make("two")
    monkeypatch.setattr(control_lane, "_LONGEST_PAUSE", 3600.0)  # who was up for so long has served
    two.update_peers([], removed=["one"])
    one.update_peers([two.info])
    peer = one.peers.get("two")
    assert peer is not None
    began = was_up = peer.control._down_since
    for _ in range(2):
        await until(lambda before=was_up: peer.control._up_since > before and not peer.control.up)  # type: ignore[misc]
        was_up = peer.control._up_since
    assert peer.control._down_since == began
    monkeypatch.setattr(control_lane, "_DOWN_AFTER", 0.0)
    assert one.peers.links()[0].failure not in ("", "it has not been reached yet")


async def test_of_many_links_the_worst_are_reported(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large mesh does not fill the registry's records."""
    monkeypatch.setattr(peers_module, "MAX_LINKS", 2)
    one = make("one")
    others = [make(f"other-{number}") for number in range(4)]
    one.update_peers([other.info for other in others])
    await until(lambda: all(one.peers.answers(f"other-{number}") for number in range(4)))
    for number, seconds in enumerate((0.001, 0.2, 0.1, 0.05)):
        peer = one.peers.get(f"other-{number}")
        assert peer is not None
        peer.control._round_trip = seconds
    assert [link.node for link in one.peers.links()] == ["other-1", "other-2"]

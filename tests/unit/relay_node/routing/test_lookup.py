"""Finding a label: who is asked, in which order, how often, and what is done with the answer."""

import asyncio
from typing import Any

import pytest
from portway_proto.wire.statements import SigningKey
from portway_relay.routing.senders import NODE, Sender
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.lookup_peers import LABEL, Around, Held
from portway_testkit.links.carrier_link import until
from portway_testkit.signers import label_of


async def test_what_is_known_is_not_asked_for(around: Around) -> None:
    """This node's own tunnels, then routes."""
    around.told("a")
    assert await around.find() == ("a", 1)
    around.tunnels[LABEL] = Held(around)
    assert await around.find() == ("here", 1)
    assert around.asked == []


async def test_a_registry_is_asked_first(around: Around) -> None:
    """It knows the node too, if this one does not; nobody else is asked then."""
    around.registered("new")
    assert await around.find() == ("new", 1)
    assert around.asked == ["registry"]
    assert await around.find() == ("new", 1)
    assert around.asked == ["registry"]


async def test_the_nodes_of_its_region_are_asked_next(around: Around) -> None:
    """When no registry answers, or has heard of it yet."""
    around.nodes = [around.answered("a")]
    assert await around.find() == ("a", 1)
    assert around.asked == ["registry", "region fra"]


async def test_the_highest_claim_of_several_counts(around: Around) -> None:
    """A number that nobody has signed is nothing."""
    node, forged = around.answered("b")
    forged.tunnel.epoch = 9
    around.nodes = [around.answered("a"), (node, forged), around.answered("b", 2)]
    assert await around.find() == ("b", 2)


@pytest.mark.parametrize("what", ["claim", "presence"])
async def test_a_forged_answer_is_none(around: Around, what: str) -> None:
    """Each signature is checked before a visitor is sent anywhere; the next best answer counts."""
    node, forged = around.answered("b", 2)
    if what == "claim":
        forged.tunnel.claim = forged.tunnel.claim[:-1] + bytes([forged.tunnel.claim[-1] ^ 1])
    else:
        forged.presence = forged.presence[:-1] + bytes([forged.presence[-1] ^ 1])
    around.nodes = [around.answered("a"), (node, forged)]
    assert await around.find() == (None if what == "presence" else ("a", 1))


async def test_an_answer_for_another_label_is_none(around: Around) -> None:
    """Whatever else the registry knows."""
    around.registered("a", 1, SigningKey(b"\x07" * 32))
    assert await around.find() is None
    assert len(around.routes) == 0


async def test_an_unknown_name_is_asked_for_once_in_a_while(around: Around, clock: ManualClock) -> None:
    """Short negative memory, which ends by itself."""
    for _ in range(3):
        assert await around.find() is None
    assert around.asked == ["registry", "region fra"]
    clock.now += 1.1
    around.registered("a")
    assert await around.find() == ("a", 1)


async def test_all_who_wait_for_a_name_wait_for_one_answer(around: Around) -> None:
    """A hundred visitors of a fresh name cost one question; one that leaves takes it from nobody."""
    around.answer.clear()
    around.registered("a")
    waiting = [asyncio.ensure_future(around.find()) for _ in range(3)]
    await until(lambda: around.asked == ["registry"])
    assert len(around.lookup) == 1
    waiting[0].cancel()
    around.answer.set()
    assert await asyncio.gather(*waiting[1:]) == [("a", 1), ("a", 1)]
    assert waiting[0].cancelled()
    assert around.asked == ["registry"]


async def test_who_comes_in_the_turns_of_the_answer_does_not_ask_again(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before those who waited for it have seen that nobody knows the name."""
    visitors: list[asyncio.Future[Any]] = []
    loop = asyncio.get_running_loop()

    def come(turns: int) -> None:
        visitors.append(asyncio.ensure_future(around.find()))
        if turns:
            loop.call_soon(come, turns - 1)

    async def ask_region(*_: object) -> list[Any]:
        if not visitors:
            come(10)
        return []

    monkeypatch.setattr(around, "ask_region", ask_region)
    assert await around.find() is None
    await until(lambda: len(visitors) == 11)
    assert await asyncio.gather(*visitors) == [None] * 11
    assert around.asked == ["registry"]


async def test_names_that_are_guessed_are_asked_for_at_a_bounded_rate(around: Around, clock: ManualClock) -> None:
    """Beyond it they are unknown at once; names that are known to exist are not among them."""
    around.told("a")
    around.down.add("a")
    for name in "xyz":
        assert await around.find(name) is None
    around.asked.clear()
    assert await around.find("w") is None
    assert around.asked == []
    assert await around.find() == ("a", 1)
    assert set(around.asked) == {"registry", "region fra", "registry's store"}
    around.asked.clear()
    clock.now += 1
    assert await around.find("w") is None
    assert around.asked == ["registry", "region fra"]


async def test_guesses_of_one_network_leave_room_for_another(clock: ManualClock) -> None:
    """However many addresses of it guess: the first visitor of a tunnel elsewhere is among those who are asked for."""
    around = Around(clock, [], rate=10)
    for number in range(20):
        await around.find("abcdefghijklmno" + "abcdefghijklmnopqrst"[number], f"198.51.100.{number}")
    around.registered("a")
    assert await around.find(LABEL, "198.51.100.1") is None
    assert await around.find(LABEL, "203.0.113.1") == ("a", 1)
    await around.lookup.close()


async def test_names_that_were_found_were_no_guesses(around: Around) -> None:
    """One visitor may come to any number of tunnels elsewhere."""
    for _ in range(10):
        key = SigningKey()
        around.registered("a", key=key)
        around.registry[label_of(key)] = around.registry.pop(LABEL)
        assert await around.find(label_of(key)) == ("a", 1)


async def test_what_was_heard_is_verified_before_the_first_visitor_goes_there(around: Around) -> None:
    """Once: the next visitor goes without. Nobody is asked, whatever region the name is of: the client has signed."""
    around.told("a")
    assert around.lookup.known(LABEL) is None
    found: Any = await around.lookup.find(LABEL, "iad", "192.0.2.1")
    assert found.node == "a"
    assert around.lookup.known(LABEL) is found
    assert around.asked == []


async def test_a_route_whose_renewal_is_overdue_is_asked_about(around: Around, clock: ManualClock) -> None:
    """After seven minutes by this node's own clock, once a minute: a registry that confirms it is enough."""
    around.registered("a")
    await around.knows("a")
    clock.now += 419
    assert await around.find() == ("a", 1)
    assert around.asked == []
    clock.now += 2
    assert await around.find() == ("a", 1)
    assert around.asked == ["registry"]
    clock.now += 59
    assert await around.find() == ("a", 1)
    assert around.asked == ["registry"]
    around.registered("b", 2)
    clock.now += 2
    assert await around.find() == ("b", 2)


async def test_a_route_ends_with_its_presence_whoever_is_asked(around: Around, clock: ManualClock) -> None:
    """A registry and a node that have nothing newer do not prolong it."""
    around.registered("a")
    around.nodes = [around.answered("a")]
    await around.knows("a")
    clock.now += 420 + 900 - 1
    assert await around.find() == ("a", 1)
    clock.now += 2
    assert await around.find() is None


async def test_a_young_node_asks_once_about_each_label(clock: ManualClock) -> None:
    """Even about what a sibling has shown it, for it cannot know what its client has signed since."""
    failures: list[BaseException] = []
    around = Around(clock, failures, young=True)
    around.told("a")
    around.registered("b", 2)
    assert await around.find() == ("b", 2)
    assert around.asked == ["registry"]
    assert await around.find() == ("b", 2)
    assert around.asked == ["registry"]
    await around.close()
    assert failures == []


async def test_nobody_waits_for_long(clock: ManualClock) -> None:
    """Registries and nodes that do not answer are waited for up to the time limit."""
    failures: list[BaseException] = []
    around = Around(clock, failures, time_limit=0.05)
    around.answer.clear()
    assert await around.find() is None
    await around.close()
    assert failures == []


async def test_a_route_whose_node_does_not_answer_is_doubted(around: Around) -> None:
    """Others are asked before a visitor is sent there; when they know nothing newer it is tried."""
    around.told("a")
    around.down.add("a")
    assert around.lookup.known(LABEL) is None
    assert await around.find() == ("a", 1)
    around.registered("b", 2)
    assert await around.find() == ("b", 2)


async def test_a_route_whose_node_does_not_answer_is_asked_about_once(around: Around) -> None:
    """A lane may lead there all the same: who is sent there is not kept waiting before."""
    around.told("a")
    around.down.add("a")
    around.registered("a")
    assert await around.find() == ("a", 1)
    assert around.asked == ["registry", "registry's store"]


async def test_a_tunnel_that_binds_meanwhile_is_found(around: Around) -> None:
    """Here, while others were asked."""
    around.answer.clear()
    finding = asyncio.ensure_future(around.find())
    await until(lambda: around.asked == ["registry"])
    around.tunnels[LABEL] = Held(around)
    around.answer.set()
    assert await finding == ("here", 1)


async def test_elsewhere_is_where_it_is_known_to_be(around: Around) -> None:
    """News that came while the visitor was on its way need no question."""
    before = await around.knows("a")
    around.told("b", 2)
    assert await around.elsewhere(before) == ("b", 2)
    assert around.asked == []


async def test_elsewhere_is_asked_for(around: Around) -> None:
    """The route that was wrong is forgotten."""
    before = await around.knows("a")
    around.registered("b", 2)
    assert await around.elsewhere(before) == ("b", 2)


async def test_elsewhere_is_never_the_same_place(around: Around) -> None:
    """A registry that has not heard yet sends nobody back."""
    before = await around.knows("a")
    around.registered("a")
    assert await around.elsewhere(before) is None
    assert around.routes.placed(LABEL) is None


async def test_a_registry_that_has_not_heard_yet_is_not_the_last_word(around: Around) -> None:
    """It names the place that is wrong: the nodes of the region are asked, and know better."""
    before = await around.knows("a")
    around.registered("a")
    around.nodes = [around.answered("b", 2)]
    assert await around.elsewhere(before) == ("b", 2)
    assert around.asked == ["registry", "region fra"]


async def test_a_node_that_only_did_not_answer_keeps_its_route(around: Around) -> None:
    """It has not said that the tunnel is gone: the next visitor is tried there."""
    before = await around.knows("a")
    assert await around.elsewhere(before, denied=False) is None
    assert around.routes.placed(LABEL) is before


async def test_a_tunnel_that_left_this_node_is_found_where_it_went(around: Around) -> None:
    """Its client has bound it at another node, of which nobody has told this one yet."""
    held = around.tunnels[LABEL] = Held(around)
    around.registered("b", 2)
    assert await around.elsewhere(held) == ("b", 2)
    assert LABEL not in around.tunnels


async def test_closing_ends_every_wait(around: Around) -> None:
    """Whoever waits is cancelled, and nothing is left."""
    around.answer.clear()
    finding = asyncio.ensure_future(around.find())
    await until(lambda: around.asked == ["registry"])
    await around.lookup.close()
    with pytest.raises(asyncio.CancelledError):
        await finding


async def test_a_name_that_nobody_was_asked_for_is_not_remembered(around: Around, clock: ManualClock) -> None:
    """While names are guessed too fast a name gets no answer, and none is kept: it is found when there is room."""
    for number in range(3):
        assert await around.find("abcdefghijklmno" + "abc"[number]) is None
    around.registered("a")
    asked = len(around.asked)
    assert await around.find() is None
    assert len(around.asked) == asked
    assert not around.routes.is_unknown(LABEL)
    clock.now += 0.5
    assert await around.find() == ("a", 1)


async def test_answers_are_counted_by_who_gave_them(around: Around, clock: ManualClock) -> None:
    """For metrics: no label is among them."""
    around.nodes = [around.answered("b")]
    await around.find()
    await around.find()
    around.registered("a", 2)
    around.routes.released(Sender(NODE, "b"), LABEL, 1, closed=False)
    await around.find()
    around.tunnels[LABEL] = Held(around)
    await around.find()
    around.nodes = []
    await around.find("a" * 16)
    await around.find("a" * 16)
    await around.find("b" * 16)
    await around.find("c" * 16)
    await around.find("d" * 16)
    assert around.lookup.answers == {
        ("node", "found"): 1,
        ("memory", "found"): 1,
        ("registry", "found"): 1,
        ("here", "found"): 1,
        ("nobody", "unknown"): 3,
        ("memory", "unknown"): 1,
        ("nobody", "not_asked"): 1,
    }

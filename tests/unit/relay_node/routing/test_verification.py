"""Checking what decides where a label is: each statement once, for all who wait, whenever its answer comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from portway_proto.wire.statements import Signed
from portway_relay.routing.senders import NODE, Sender
from portway_relay.routing.verification import Verification
from portway_testkit.fakes.known_routes import KEY, LABEL, KnownRoutes
from portway_testkit.fakes.lookup_peers import Around
from portway_testkit.signers import CLUSTER, SessionSigner


class Checks:
    """The checking of signatures, whose answers a test gives; or at once, before anybody waits."""

    cluster = CLUSTER

    def __init__(self) -> None:
        self.at_once = False
        self.asked: list[tuple[Signed, asyncio.Future[bool]]] = []
        self.charged: list[Sender] = []

    def wait(self, sender: Sender, signatures: int) -> float:
        self.charged.append(sender)
        return 0.0

    def check(self, signed: Signed, sender: Sender | None = None) -> "asyncio.Future[bool]":
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.asked.append((signed, answer))
        if self.at_once:
            answer.set_result(signed.is_genuine())
        return answer


@pytest.fixture
def checks() -> Checks:
    return Checks()


@pytest.fixture
async def verification(known: KnownRoutes, checks: Any) -> AsyncIterator[Verification]:
    failures: list[BaseException] = []
    verification = Verification(known.routes, checks, on_failure=failures.append)
    yield verification
    await verification.close()
    assert failures == []


async def test_an_answer_that_is_there_already_is_taken_up(
    known: KnownRoutes, checks: Checks, verification: Verification
) -> None:
    """Its callbacks have not run yet: asked for again and again without a turn of the loop, it stopped the node."""
    checks.at_once = True
    known.place(SessionSigner(), "a")
    await verification.settle(LABEL)
    assert known.routes.usable(LABEL) is not None
    assert len(checks.asked) == 2
    assert checks.charged == [Sender(NODE, "a")] * 2


async def test_all_who_wait_for_a_statement_wait_for_one_check(
    known: KnownRoutes, checks: Checks, verification: Verification
) -> None:
    """Its sender is charged once; one who leaves takes it from nobody."""
    known.place(SessionSigner(), "a")
    waiting = [asyncio.ensure_future(verification.settle(LABEL)) for _ in range(3)]
    await until(lambda: len(checks.asked) == 1)
    waiting[0].cancel()
    checks.asked[0][1].set_result(True)
    await until(lambda: len(checks.asked) == 2)
    checks.asked[1][1].set_result(True)
    await asyncio.gather(*waiting[1:])
    assert known.routes.usable(LABEL) is not None
    assert len(checks.charged) == 2


async def test_what_contests_what_is_in_use_is_settled_in_the_background(
    known: KnownRoutes, checks: Checks, verification: Verification
) -> None:
    """Nobody waits for it; until then the route of before is used."""
    checks.at_once = True
    known.place(SessionSigner(), "a")
    await verification.settle(LABEL)
    signer = SessionSigner()
    claim = signer.claim(KEY, node="b", epoch=2)
    known.routes.hear_presence(Sender(NODE, "b"), signer.present("b", time_ms=known.now_ms))
    assert known.routes.hear_claim(Sender(NODE, "b"), claim)
    verification.soon(LABEL)
    verification.soon(LABEL)
    before = known.routes.usable(LABEL)
    assert before is not None
    assert before.node == "a"
    await until(lambda: known.routes.highest(LABEL) == claim and known.routes.usable(LABEL) is not before)
    assert len(checks.asked) == 4


async def test_many_visitors_of_a_fresh_name_are_settled(around: Around) -> None:
    """With the real checks, whose thread answers at any moment of the loop."""
    sender, (_, presence) = Sender(NODE, "a"), around.statements("a")
    for _ in range(20):
        around.routes._heard._claims.discard(sender, LABEL)
        around.routes._heard._presences.discard(sender, presence.session_key)
        around.told("a")
        found = await asyncio.gather(*(around.find() for _ in range(20)))
        assert set(found) == {("a", 1)}


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody announces it
        await asyncio.sleep(0)

"""portway.engine.second_opinions: what makes a node's refusal final."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from portway.engine import second_opinions as module
from portway.engine.failures import Failure
from portway.engine.second_opinions import COUNTS_FOR, SecondOpinions
from portway.errors import AuthError, QuotaError, RemoteError, UnreachableError
from portway_proto.v1.lane_pb2 import FailureCode
from portway_proto.wire.labels import Label
from portway_runtime.tasks import Tasks
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.fake_link import FakeDirectory, node

LABEL, OTHER = Label("k5zq2w7b3xav6mdy"), Label("aaaaaaaaaaaaaaaa")
EPOCH = Failure(FailureCode.FAILURE_CODE_EPOCH, "taken")
QUOTA = Failure(FailureCode.FAILURE_CODE_QUOTA, "no more")
REVOKED = Failure(FailureCode.FAILURE_CODE_REVOKED, "revoked")
ONE, TWO = node("one"), node("two")


class Asked:
    """SecondOpinions with a registry that knows both nodes."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.tasks = Tasks("test")
        self.directory = FakeDirectory()
        self.directory.nodes = [ONE, TWO]
        directory: Any = self.directory
        self.opinions = SecondOpinions(directory, self.tasks, self.clock)


@pytest.fixture
async def asked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Asked]:
    monkeypatch.setattr(module, "QUOTA_HEARD_AFTER", 0.0)
    asked = Asked()
    yield asked
    await asked.tasks.close()


@pytest.mark.parametrize(
    ("failure", "kind"), [(EPOCH, RemoteError), (QUOTA, QuotaError), (REVOKED, AuthError)], ids=lambda one: str(one)
)
async def test_a_second_node_makes_it_final(asked: Asked, failure: Failure, kind: type[Exception]) -> None:
    """The first one only sends the client there; what it says of another tunnel, or for another reason, is apart."""
    assert await asked.opinions.another_may_differ(LABEL, ONE, failure)
    assert await asked.opinions.another_may_differ(LABEL, ONE, failure)
    assert await asked.opinions.another_may_differ(OTHER, TWO, failure)
    other = QUOTA if failure is EPOCH else EPOCH
    assert await asked.opinions.another_may_differ(LABEL, TWO, other)
    with pytest.raises(kind):
        await asked.opinions.another_may_differ(LABEL, TWO, failure)


async def test_refusals_long_apart_are_not_two(asked: Asked) -> None:
    """Each is a first one."""
    assert await asked.opinions.another_may_differ(LABEL, ONE, QUOTA)
    asked.clock.now += COUNTS_FOR + 1
    assert await asked.opinions.another_may_differ(LABEL, TWO, QUOTA)


async def test_a_registry_makes_it_final(asked: Asked) -> None:
    """It knows tokens and quotas, and no labels. That it is asked too often says nothing about a token."""
    asked.directory.errors = [AuthError("unknown token"), QuotaError("no more"), QuotaError("too often")]
    with pytest.raises(AuthError, match="unknown token"):
        await asked.opinions.another_may_differ(LABEL, ONE, REVOKED)
    with pytest.raises(QuotaError, match="no more"):
        await asked.opinions.another_may_differ(LABEL, ONE, QUOTA)
    assert asked.directory.new_tunnels == [0, 1], "only a quota is asked for with the tunnel that it refuses"
    assert await asked.opinions.another_may_differ(LABEL, ONE, REVOKED)


async def test_a_registry_may_hear_of_a_full_quota_a_moment_later(asked: Asked) -> None:
    """The tunnels that fill it were opened just now: an honest node is not left for what it says."""

    def hear_of_it() -> None:
        asked.directory.errors.append(QuotaError("may have 2 tunnels"))

    asked.directory.on_locate = hear_of_it
    with pytest.raises(QuotaError, match="may have 2"):
        await asked.opinions.another_may_differ(LABEL, ONE, QUOTA)
    assert asked.directory.new_tunnels == [1, 1]


async def test_the_only_node_is_right_when_a_registry_knows_no_other(asked: Asked) -> None:
    """While none answers, nothing is final and there is nowhere to go."""
    asked.directory.nodes = [ONE]
    asked.directory.errors = [UnreachableError("down")]
    assert not await asked.opinions.another_may_differ(LABEL, ONE, EPOCH)
    with pytest.raises(RemoteError, match="taken"):
        await asked.opinions.another_may_differ(LABEL, ONE, EPOCH)


async def test_the_only_node_for_now_is_not_right_alone(asked: Asked) -> None:
    """Others that a registry has named are drained or lost at the moment: nothing is final, there is nowhere to go."""
    asked.directory.nodes, asked.directory.named_before = [ONE], [ONE.name, TWO.name]
    for failure in (EPOCH, QUOTA, REVOKED):
        assert not await asked.opinions.another_may_differ(LABEL, ONE, failure)


async def test_many_refusals_at_once_ask_once(asked: Asked) -> None:
    """A node that lets go of a thousand tunnels costs a registry one call."""
    labels = [Label(f"{number:016}") for number in range(100)]
    answers = await asyncio.gather(*(asked.opinions.another_may_differ(label, ONE, EPOCH) for label in labels))
    assert answers == [True] * 100
    assert asked.directory.asked == 1

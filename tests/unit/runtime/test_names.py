"""Look-ups: one for a name, bounded in number, kept for a short time, and never waited for at an end."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from portway_runtime import names as names_module
from portway_runtime.names import (
    ANSWER_LIFE,
    FAILURE_LIFE,
    Address,
    BlockingNames,
    Names,
    alternating,
    literal_address,
)
from portway_runtime.os_threads import Event
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.links.carrier_link import until
from portway_testkit.waiting import eventually

V4, V4_OTHER = Address(socket.AF_INET, "192.0.2.1"), Address(socket.AF_INET, "192.0.2.2")
V6, V6_OTHER = Address(socket.AF_INET6, "2001:db8::1"), Address(socket.AF_INET6, "2001:db8::2")


class Resolver:
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[Address] | Exception] = {}
        self.may_answer = threading.Event()

    def __call__(self, host: str) -> list[Address]:
        self.asked.append(host)
        assert self.may_answer.wait(20)
        answer = self.answers.get(host, [V4])
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.may_answer.set()


async def test_a_name_asked_for_twice_at_once_is_looked_up_once(resolver: Resolver) -> None:
    names = Names(resolve=resolver)
    asking = [asyncio.ensure_future(names.addresses("a.test")) for _ in range(12)]
    await until(lambda: resolver.asked == ["a.test"])
    assert names.is_looking_up("a.test")
    resolver.may_answer.set()
    assert await asyncio.gather(*asking) == [[V4]] * 12
    assert resolver.asked == ["a.test"]
    assert not names.is_looking_up("a.test")


async def test_a_silent_name_holds_up_no_other(resolver: Resolver) -> None:
    names = Names(resolve=lambda host: resolver(host) if host == "silent.test" else [V6])
    silent = asyncio.ensure_future(names.addresses("silent.test"))
    await until(lambda: resolver.asked == ["silent.test"])
    assert await names.addresses("other.test") == [V6]
    resolver.may_answer.set()
    assert await silent == [V4]


async def test_the_number_of_lookups_is_bounded(resolver: Resolver) -> None:
    """The next name has its turn when one has been answered."""
    names = Names(lookups=2, resolve=resolver)
    asking = [asyncio.ensure_future(names.addresses(f"{number}.test")) for number in range(4)]
    await until(lambda: len(resolver.asked) == 2)
    assert await asyncio.wait(asking, timeout=0.05) == (set(), set(asking))
    assert len(resolver.asked) == 2
    resolver.may_answer.set()
    assert await asyncio.gather(*asking) == [[V4]] * 4
    assert sorted(resolver.asked) == ["0.test", "1.test", "2.test", "3.test"]


async def test_answers_are_kept_for_a_short_time(resolver: Resolver, clock: ManualClock) -> None:
    names = Names(clock=clock, resolve=resolver)
    resolver.may_answer.set()
    for advance, lookups in ((0.0, 1), (ANSWER_LIFE - 0.1, 1), (0.2, 2)):
        clock.now += advance
        assert await names.addresses("a.test") == [V4]
        assert len(resolver.asked) == lookups
    names.forget("a.test")
    await names.addresses("a.test")
    assert len(resolver.asked) == 3


async def test_failures_are_kept_for_a_shorter_time(resolver: Resolver, clock: ManualClock) -> None:
    names = Names(clock=clock, resolve=resolver)
    resolver.may_answer.set()
    resolver.answers["a.test"] = socket.gaierror(socket.EAI_NONAME, "no such name")
    for advance, lookups in ((0.0, 1), (FAILURE_LIFE - 0.1, 1), (0.2, 2)):
        clock.now += advance
        with pytest.raises(socket.gaierror, match="no such name"):
            await names.addresses("a.test")
        assert len(resolver.asked) == lookups


async def test_who_gives_up_leaves_the_lookup_to_the_next(resolver: Resolver) -> None:
    names = Names(resolve=resolver)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await names.addresses("a.test")
    asking = asyncio.ensure_future(names.addresses("a.test"))
    resolver.may_answer.set()
    assert await asking == [V4]
    assert resolver.asked == ["a.test"]


async def test_without_a_thread_that_name_alone_fails(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(function: Callable[[], object], name: str) -> None:
        raise RuntimeError("can't start new thread")

    names = Names(lookups=1, resolve=resolver)
    with monkeypatch.context() as patch:
        patch.setattr(names_module, "start_thread", none)
        with pytest.raises(OSError, match="cannot be looked up: can't start new thread"):
            await names.addresses("a.test")
    resolver.may_answer.set()
    assert await names.addresses("b.test") == [V4]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%lo"])
async def test_literal_addresses_are_not_looked_up(resolver: Resolver, host: str) -> None:
    (found,) = await Names(resolve=resolver).addresses(host)
    assert found.host == host.partition("%")[0]
    assert found == literal_address(host)
    assert bool(found.scope) is ("%" in host)
    assert found.with_port(80)[:2] == (found.host, 80)
    assert resolver.asked == []


async def test_the_system_is_asked() -> None:
    names = Names()
    assert {address.host for address in await names.addresses("localhost")} <= {"127.0.0.1", "::1"}
    with pytest.raises(UnicodeError):
        await names.addresses("a" * 64)
    with pytest.raises(socket.gaierror):
        await names.addresses("fe80::1%nowhere")  # which needs no name server


@pytest.mark.parametrize(
    ("found", "order"),
    [
        ([V6, V6_OTHER, V4, V4_OTHER], [V6, V4, V6_OTHER, V4_OTHER]),
        ([V4, V6, V6_OTHER], [V4, V6, V6_OTHER]),
        ([V4, V4_OTHER], [V4, V4_OTHER]),
        ([], []),
    ],
)
def test_families_alternate(found: list[Address], order: list[Address]) -> None:
    """RFC 8305 §4."""
    assert alternating(found) == order


def test_threads_that_wait_share_a_lookup(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has waited for long enough leaves it to the others."""
    waiting: list[float | None] = []

    class WatchedEvent(Event):
        def wait(self, timeout: float | None = None) -> bool:
            waiting.append(timeout)
            return super().wait(timeout)

    monkeypatch.setattr(names_module, "Event", WatchedEvent)
    names = BlockingNames(resolve=resolver)
    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(names.addresses, "a.test", 20) for _ in range(3)]
        with pytest.raises(TimeoutError, match="no resolver has answered for a"):
            names.addresses("a.test", 0.01)
        eventually(lambda: waiting.count(20) == 3)
        resolver.may_answer.set()
        assert [each.result(20) for each in asking] == [[V4]] * 3
    assert resolver.asked == ["a.test"]
    assert names.addresses("a.test", 20) == [V4]
    assert resolver.asked == ["a.test"] * 2
    assert names.addresses("::1", 0) == [literal_address("::1")]


def test_a_thread_that_waits_is_told_what_is_wrong(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    names = BlockingNames(resolve=resolver)
    resolver.may_answer.set()
    resolver.answers["a.test"] = socket.gaierror(socket.EAI_NONAME, "no such name")
    for _ in range(2):
        with pytest.raises(socket.gaierror, match="no such name"):
            names.addresses("a.test", 20)

    def none(function: Callable[[], object], name: str) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(names_module, "start_thread", none)
    for _ in range(2):
        with pytest.raises(OSError, match="can't start new thread"):
            names.addresses("b.test", 20)


_ENDING = """
import asyncio, sys, threading
from portway_runtime.names import Names

stuck = threading.Event()

async def main():
    names = Names(resolve=lambda host: stuck.set() or threading.Event().wait())
    asking = asyncio.ensure_future(names.addresses("silent.test"))
    while not stuck.is_set():
        await asyncio.sleep(0.001)
    asking.cancel()

loop = __import__("uvloop").new_event_loop if sys.argv[1] == "uvloop" else None
with asyncio.Runner(loop_factory=loop) as runner:
    runner.run(main())
print("ended")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_lookup_keeps_neither_its_loop_nor_the_program_from_ending(loop: str) -> None:
    program = subprocess.run([sys.executable, "-c", _ENDING, loop], capture_output=True, text=True, timeout=20)
    assert (program.returncode, program.stdout, program.stderr) == (0, "ended\n", "")

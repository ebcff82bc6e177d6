"""portway.engine.directory: what is remembered of the registries' answers, and when a grant is renewed."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

import pytest
from portway.engine import directory as discovery
from portway.engine.directory import Directory, Grant, Located, Node, Renewed, RoundTrip, on_thread
from portway.engine.signer import Signer
from portway.errors import AuthError, Error, UnreachableError
from portway_runtime.clocks import RegistryClock
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import NoThread
from portway_testkit.processes.threads import no_more_threads

LOCATED_MS, RENEWED_MS = 1_800_000_000_000, 1_900_000_000_000
NODE = Node("one", "fra", Endpoint("192.0.2.1", 443), "one.node.portway.internal", "tunnels.test")


class FakeRegistries:
    """Answers with grants that are numbered, or with `error`; `asked` says what for."""

    def __init__(self, renew_after: float = 100.0) -> None:
        self.asked: list[str] = []
        self.keys: list[bytes] = []
        self.error: Error | None = None
        self._renew_after = renew_after

    def locate(self, session_key: bytes, new_tunnels: int, limit: int) -> Located:
        self.keys.append(session_key)
        return Located((NODE,), b"ca", self._answer("locate"), cluster_id="c", registry_time_ms=LOCATED_MS)

    def renew(self, session_key: bytes) -> Renewed:
        self.keys.append(session_key)
        return Renewed(self._answer("renew"), RENEWED_MS)

    def report(self, round_trips: Sequence[RoundTrip]) -> None:
        raise NotImplementedError

    def _answer(self, what: str) -> Grant:
        self.asked.append(what)
        if self.error is not None:
            raise self.error
        return Grant(f"{what} {len(self.asked)}", self._renew_after)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sleeps:
    """In the place of asyncio.sleep: the clock jumps, and after `count` sleeps the sleeper is stopped."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.slept: list[float] = []
        self._clock = clock
        self._count = count

    async def __call__(self, seconds: float) -> None:
        if len(self.slept) == self._count:
            raise asyncio.CancelledError
        self.slept.append(seconds)
        self._clock.now += seconds


async def test_the_last_answer_is_remembered() -> None:
    """And stays, when the next one does not come."""
    registries = FakeRegistries()
    directory = Directory(registries, Signer())
    assert directory.located is None
    located = await directory.locate()
    assert directory.located is located
    registries.error = UnreachableError("down")
    for ask in (directory.locate, directory.renew):
        with pytest.raises(UnreachableError, match="down"):
            await ask()
    assert directory.located is located


async def test_a_renewed_grant_takes_the_place_of_the_old_one_alone() -> None:
    """Nodes and CA stay."""
    directory = Directory(FakeRegistries(), Signer())
    located = await directory.locate()
    await directory.renew()
    assert directory.located is not None
    assert directory.located.grant.token == "renew 2"
    assert (directory.located.nodes, directory.located.cluster_ca) == (located.nodes, located.cluster_ca)


async def test_grants_are_for_the_key_that_signs_and_the_time_is_the_registry_s() -> None:
    """Each answer sets it; a grant that was renewed for a key of before is of no use."""
    elapsed = 0.0
    signer, registries = Signer(RegistryClock(lambda: 5.0, lambda: elapsed)), FakeRegistries()
    directory = Directory(registries, signer)
    await directory.locate()
    assert signer.epoch_after(0) == LOCATED_MS
    elapsed = 60.0
    assert signer.epoch_after(0) == LOCATED_MS + 60_000
    await directory.renew()
    assert signer.epoch_after(0) == RENEWED_MS
    assert registries.keys == [signer.session_key] * 2
    really = registries.renew

    def change_meanwhile(session_key: bytes) -> Renewed:
        signer.change_key()
        return really(session_key)

    registries.renew = change_meanwhile  # type: ignore[method-assign]
    await directory.renew()
    assert directory.located is not None
    assert directory.located.grant.token == "renew 2"
    await directory.locate()
    assert registries.keys[-1] == signer.session_key != registries.keys[0]


async def test_renewal_is_due_by_a_clock_of_its_own() -> None:
    """So long after the answer came."""
    clock = Clock()
    directory = Directory(FakeRegistries(), Signer(), clock)
    await directory.locate()
    assert directory.renewal_due_in() == 100
    clock.now += 30
    assert directory.renewal_due_in() == 70
    clock.now += 100
    assert directory.renewal_due_in() == 0


async def renewals(
    monkeypatch: pytest.MonkeyPatch, sleeps: int, prepare: Callable[[FakeRegistries], None] = lambda _: None
) -> tuple[list[float], list[str]]:
    """What keep_renewed slept, and asked for after Locate."""
    clock, registries = Clock(), FakeRegistries()
    directory = Directory(registries, Signer(), clock)
    await directory.locate()
    prepare(registries)
    fake = Sleeps(clock, sleeps)
    monkeypatch.setattr(asyncio, "sleep", fake)
    with pytest.raises(asyncio.CancelledError):
        await directory.keep_renewed()
    return fake.slept, registries.asked[1:]


async def test_a_grant_is_renewed_whenever_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Again and again."""
    assert await renewals(monkeypatch, 3) == ([100.0] * 3, ["renew"] * 3)


@pytest.mark.parametrize(
    ("error", "level"), [(UnreachableError("down"), logging.INFO), (AuthError("revoked"), logging.WARNING)]
)
async def test_a_renewal_that_fails_is_tried_again_without_hurry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Error, level: int
) -> None:
    """The grant before is good for long; a token that is not accepted is a warning."""
    caplog.set_level(logging.INFO, "portway")

    def fail(registries: FakeRegistries) -> None:
        registries.error = error

    slept, asked = await renewals(monkeypatch, 4, fail)
    assert slept == [100.0, discovery.RENEW_RETRY, 0.0, discovery.RENEW_RETRY]
    assert asked == ["renew", "renew"]
    assert {record.levelno for record in caplog.records} == {level}


async def test_a_blocking_call_runs_elsewhere() -> None:
    """On a daemon thread, whose result or error comes back."""
    thread = await on_thread(threading.current_thread)
    assert thread is not threading.current_thread()
    assert thread.daemon

    def fail() -> None:
        raise AuthError("no")

    with pytest.raises(AuthError, match="no"):
        await on_thread(fail)


async def test_no_thread_is_the_error_of_that_call() -> None:
    """A registry that is not asked cannot be reached; the answer before then stays."""
    directory = Directory(FakeRegistries(), Signer())
    located = await directory.locate()
    with no_more_threads():
        with pytest.raises(NoThread):
            await on_thread(int)
        for call in (directory.locate, directory.renew, lambda: directory.report([])):
            with pytest.raises(UnreachableError, match="no registry could be asked: can't start new thread: raise "):
                await call()
    assert directory.located is located
    await directory.renew()


async def test_a_caller_who_left_is_not_told() -> None:
    """The call ends by itself; its answer goes nowhere."""
    entered, leave = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def block() -> None:
        threads.append(threading.current_thread())
        entered.set()
        leave.wait()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await on_thread(block)
    assert entered.wait(10)
    leave.set()
    await asyncio.to_thread(threads[0].join)

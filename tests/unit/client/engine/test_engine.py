"""portway.engine.engine: one tunnel a place, one link for equal settings, and what is said when time runs out."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from portway.config import Settings
from portway.engine import engine as module
from portway.engine.dialogue import SessionCredentials, TunnelBound
from portway.engine.engine import Engine
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.key_file import KeyFile
from portway.engine.return_rule import ReturnRule
from portway.engine.signer import Signer
from portway.errors import Attempt, AuthError, ConfigError, Error, InvalidError, UnreachableError
from portway.tunnel import TunnelRequest
from portway_carrier.values import Counters


class FakeLink:
    """Binds at once, or raises `error`, or never answers."""

    def __init__(
        self,
        carrier: object,
        directory: object,
        signer: Signer,
        *_: object,
        racers: int,
        returning: ReturnRule | None,
    ) -> None:
        self.signer = signer
        self.racers = racers
        self.returning = returning
        self.attached = True
        self.trouble = ""
        self.attempts: tuple[Attempt, ...] = ()
        self.failure: UnreachableError | None = None
        self.error: Error | None = None
        self.answers = True
        self.bound: list[HeldTunnel] = []
        self.lost: list[Error] = []
        self.closed = False

    async def bind(self, held: HeldTunnel) -> None:
        if self.error is not None:
            raise self.error
        if not self.answers:
            await asyncio.Event().wait()
        held.bound(SessionCredentials(b"id", b"secret"), TunnelBound(1, "a.test", 443, "", 0, b""))
        self.bound.append(held)

    def release(self, held: HeldTunnel) -> None:
        if held in self.bound:
            self.bound.remove(held)

    def lose_all(self, error: Error) -> None:
        self.lost.append(error)

    async def close(self) -> None:
        self.closed = True


class FakeCarrier:
    counters = Counters(visits_started=3)

    async def close(self) -> None: ...


@pytest.fixture
def wanted(settings: Settings) -> TunnelRequest:
    return TunnelRequest(8000, None, False, False, 10.0, settings)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engine]:
    monkeypatch.setattr(module, "Link", FakeLink)
    failures: list[BaseException] = []
    engine = Engine(FakeCarrier(), failures.append)  # type: ignore[arg-type]
    yield engine
    await engine.close()
    assert failures == []


def link(engine: Engine) -> FakeLink:
    (link,) = engine._links.values()
    assert isinstance(link, FakeLink)
    return link


async def test_a_place_is_forwarded_once(engine: Engine, wanted: TunnelRequest) -> None:
    """Until its tunnel is closed; the same port of another host is another place."""
    first = await engine.open(wanted)
    with pytest.raises(InvalidError, match="port 8000 is forwarded already"):
        await engine.open(replace(wanted))
    await engine.open(replace(wanted, host="db"))
    with pytest.raises(InvalidError, match="db:8000 is forwarded already"):
        await engine.open(replace(wanted, host="db"))
    engine.release(first)
    engine.release(first)
    await engine.open(wanted)


async def test_a_place_is_taken_while_its_tunnel_is_being_opened(engine: Engine, wanted: TunnelRequest) -> None:
    """And free again when that fails."""
    await engine.open(replace(wanted, port=1))
    link(engine).answers = False
    opening = asyncio.ensure_future(engine.open(wanted))
    await asyncio.sleep(0)
    with pytest.raises(InvalidError, match="forwarded already"):
        await engine.open(replace(wanted))
    opening.cancel()
    await asyncio.wait([opening])
    link(engine).answers = True
    await engine.open(wanted)


async def test_a_key_is_one_tunnel_s(engine: Engine, wanted: TunnelRequest, tmp_path: Path) -> None:
    """Of this program, at a time, under whichever name its file has; the error says what to do."""
    key, copy, other = (str(tmp_path / name) for name in ("key", "copy", "other"))
    first = await engine.open(replace(wanted, key=key))
    shutil.copy2(key, copy)
    with pytest.raises(InvalidError, match=r"port 8000 has the URL of the key file .*copy already: .*key=\"\""):
        await engine.open(replace(wanted, port=8001, key=copy))
    await engine.open(replace(wanted, port=8001, key=other))
    engine.release(first)
    again = await engine.open(replace(wanted, port=8002, key=copy))
    assert again.label == first.label


async def test_a_key_file_that_cannot_be_used_opens_nothing(
    engine: Engine, wanted: TunnelRequest, tmp_path: Path
) -> None:
    """The opener is told what is wrong with it."""
    with pytest.raises(ConfigError, match="is a folder"):
        await engine.open(replace(wanted, key=str(tmp_path)))
    assert (engine.status().tunnels, engine._links) == (0, {})


@pytest.fixture
def slow_key(tmp_path: Path) -> Path:
    """A key file with tickets on a disk that does not answer before the test calls `answer`: they are a pipe."""
    KeyFile(tmp_path / "key")
    os.mkfifo(tmp_path / "key.tickets", 0o600)
    return tmp_path / "key"


def answer(slow_key: Path) -> None:
    """Returns once the tickets are being read."""
    slow_key.with_name("key.tickets").write_bytes(b"{}")


async def test_a_slow_disk_stops_no_other_tunnel(engine: Engine, wanted: TunnelRequest, slow_key: Path) -> None:
    """Nor the event loop: a key file is read on a thread of its own."""
    opening = asyncio.ensure_future(engine.open(replace(wanted, port=1, key=str(slow_key))))
    await asyncio.sleep(0)
    await engine.open(wanted)
    assert not opening.done()
    await asyncio.to_thread(answer, slow_key)
    await opening
    assert engine.status().tunnels == 2


async def test_a_disk_that_does_not_answer_is_not_waited_for_longer(
    engine: Engine, wanted: TunnelRequest, slow_key: Path
) -> None:
    """Than the opening may take; the error names the file."""
    with pytest.raises(ConfigError, match=rf"{slow_key} could not be read within 0\.01 s"):
        await engine.open(replace(wanted, timeout=0.01, key=str(slow_key)))
    assert engine.status().tunnels == 0
    await asyncio.to_thread(answer, slow_key)


async def test_links_do_not_share_a_session_key(engine: Engine, wanted: TunnelRequest, settings: Settings) -> None:
    """Each has one of its own, before it asks a registry."""
    await engine.open(wanted)
    await engine.open(replace(wanted, port=1, settings=replace(settings, token="pw_other_secret")))
    one, other = (link.signer.session_key for link in engine._links.values())  # type: ignore[attr-defined]
    assert one != other


async def test_equal_settings_share_a_link(engine: Engine, wanted: TunnelRequest, settings: Settings) -> None:
    """Another token has its own."""
    await engine.open(wanted)
    await engine.open(replace(wanted, port=1, settings=replace(settings)))
    assert len(engine._links) == 1
    await engine.open(replace(wanted, port=2, settings=replace(settings, token="pw_other_secret")))
    assert len(engine._links) == 2


async def test_only_latency_is_raced(engine: Engine, wanted: TunnelRequest, settings: Settings) -> None:
    """`geoip` tries one node at a time, over a link of its own."""
    await engine.open(wanted)
    await engine.open(replace(wanted, port=1, settings=replace(settings, strategy="geoip")))
    assert [link.racers for link in engine._links.values()] == [3, 1]  # type: ignore[attr-defined]


async def test_a_link_may_be_told_to_stay(engine: Engine, wanted: TunnelRequest, settings: Settings) -> None:
    """By default it goes to nearer nodes; each link by a rule of its own."""
    await engine.open(wanted)
    await engine.open(replace(wanted, port=1, settings=replace(settings, strategy="geoip")))
    await engine.open(replace(wanted, port=2, settings=replace(settings, returns=None)))
    one, other, staying = (link.returning for link in engine._links.values())  # type: ignore[attr-defined]
    assert one is not None
    assert other not in (None, one)
    assert staying is None


async def test_an_opening_that_nobody_waits_for_is_closed(engine: Engine, wanted: TunnelRequest) -> None:
    """Known by its very request: an equal one is somebody else's."""
    await engine.open(wanted)
    engine.withdraw(replace(wanted))
    assert len(link(engine).bound) == 1
    engine.withdraw(wanted)
    assert link(engine).bound == []
    assert engine.status().tunnels == 0


async def test_an_error_leaves_nothing(engine: Engine, wanted: TunnelRequest) -> None:
    """The place is free for the next try."""
    await engine.open(replace(wanted, port=1))
    link(engine).error = AuthError("no")
    with pytest.raises(AuthError):
        await engine.open(wanted)
    assert engine.status().tunnels == 1


@pytest.mark.parametrize(
    ("attempts", "text"),
    [
        ((), r"no tunnel within 0\.01 s: is the network slow\? raise timeout="),
        ((Attempt("a", "a:1", "no answer yet"),), r"no tunnel within 0\.01 s\n  a \(a:1\): no answer yet"),
    ],
)
async def test_time_that_runs_out_says_on_whom(
    engine: Engine, wanted: TunnelRequest, attempts: tuple[Attempt, ...], text: str
) -> None:
    """As far as that is known."""
    await engine.open(replace(wanted, port=1))
    link(engine).answers = False
    link(engine).attempts = attempts
    with pytest.raises(UnreachableError, match=text) as raised:
        await engine.open(replace(wanted, timeout=0.01))
    assert raised.value.attempts == attempts
    link(engine).failure = UnreachableError("no registry answers", attempts)
    with pytest.raises(UnreachableError, match=r"no tunnel within 0\.01 s: no registry answers"):
        await engine.open(replace(wanted, timeout=0.01))


async def test_status_says_how_things_stand(engine: Engine, wanted: TunnelRequest) -> None:
    """Apart when one link is, with its trouble."""
    await engine.open(wanted)
    assert engine.status() == module.Status(1, True, "", FakeCarrier.counters)
    link(engine).attached = False
    link(engine).trouble = "its node is gone"
    assert engine.status() == module.Status(1, False, "its node is gone", FakeCarrier.counters)


async def test_an_internal_failure_is_every_tunnel_s_loss(engine: Engine, wanted: TunnelRequest) -> None:
    """The program is told, and asked to report it."""
    await engine.open(wanted)
    await engine.close(ZeroDivisionError("inside"))
    (error,) = link(engine).lost
    assert "inside" in str(error)
    assert link(engine).closed

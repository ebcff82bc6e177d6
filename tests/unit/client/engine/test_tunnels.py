"""portway.engine.tunnels: one tunnel a place, one link for equal settings, and what is said when time runs out."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from portway.config import Settings
from portway.engine import tunnels as module
from portway.engine.binding import Binding
from portway.engine.dialogue import SessionKey, TunnelBound
from portway.engine.tunnels import Tunnels
from portway.errors import Attempt, AuthError, Error, InvalidError, UnreachableError
from portway.forwarding import Request
from portway_carrier.contract import Counters


class FakeLink:
    """Binds at once, or raises `error`, or never answers."""

    def __init__(self, *_: object, racers: int) -> None:
        self.racers = racers
        self.attached = True
        self.trouble = ""
        self.attempts: tuple[Attempt, ...] = ()
        self.error: Error | None = None
        self.answers = True
        self.bound: list[Binding] = []
        self.lost: list[Error] = []
        self.closed = False

    async def bind(self, binding: Binding) -> None:
        if self.error is not None:
            raise self.error
        if not self.answers:
            await asyncio.Event().wait()
        binding.bound(SessionKey(b"id", b"secret"), TunnelBound(1, "a.test", 443, "", 0, b""))
        self.bound.append(binding)

    def release(self, binding: Binding) -> None:
        if binding in self.bound:
            self.bound.remove(binding)

    def lose_all(self, error: Error) -> None:
        self.lost.append(error)

    async def close(self) -> None:
        self.closed = True


class FakeCarrier:
    counters = Counters(visits_started=3)

    async def close(self) -> None: ...


@pytest.fixture
def wanted(settings: Settings) -> Request:
    return Request(8000, None, False, False, 10.0, settings)


@pytest.fixture
async def tunnels(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tunnels]:
    monkeypatch.setattr(module, "Link", FakeLink)
    failures: list[BaseException] = []
    tunnels = Tunnels(FakeCarrier(), failures.append)  # type: ignore[arg-type]
    yield tunnels
    await tunnels.close()
    assert failures == []


def link(tunnels: Tunnels) -> FakeLink:
    (link,) = tunnels._links.values()
    assert isinstance(link, FakeLink)
    return link


async def test_a_place_is_forwarded_once(tunnels: Tunnels, wanted: Request) -> None:
    """Until its tunnel is closed; the same port of another host is another place."""
    first = await tunnels.open(wanted)
    with pytest.raises(InvalidError, match="port 8000 is forwarded already"):
        await tunnels.open(replace(wanted))
    await tunnels.open(replace(wanted, host="db"))
    with pytest.raises(InvalidError, match="db:8000 is forwarded already"):
        await tunnels.open(replace(wanted, host="db"))
    tunnels.release(first)
    tunnels.release(first)
    await tunnels.open(wanted)


async def test_a_place_is_taken_while_its_tunnel_is_being_opened(tunnels: Tunnels, wanted: Request) -> None:
    """And free again when that fails."""
    await tunnels.open(replace(wanted, port=1))
    link(tunnels).answers = False
    opening = asyncio.ensure_future(tunnels.open(wanted))
    await asyncio.sleep(0)
    with pytest.raises(InvalidError, match="forwarded already"):
        await tunnels.open(replace(wanted))
    opening.cancel()
    await asyncio.wait([opening])
    link(tunnels).answers = True
    await tunnels.open(wanted)


async def test_equal_settings_share_a_link(tunnels: Tunnels, wanted: Request, settings: Settings) -> None:
    """Another token has its own."""
    await tunnels.open(wanted)
    await tunnels.open(replace(wanted, port=1, settings=replace(settings)))
    assert len(tunnels._links) == 1
    await tunnels.open(replace(wanted, port=2, settings=replace(settings, token="pw_other_secret")))
    assert len(tunnels._links) == 2


async def test_only_latency_is_raced(tunnels: Tunnels, wanted: Request, settings: Settings) -> None:
    """`geoip` tries one node at a time, over a link of its own."""
    await tunnels.open(wanted)
    await tunnels.open(replace(wanted, port=1, settings=replace(settings, strategy="geoip")))
    assert [link.racers for link in tunnels._links.values()] == [3, 1]  # type: ignore[attr-defined]


async def test_an_opening_that_nobody_waits_for_is_closed(tunnels: Tunnels, wanted: Request) -> None:
    """Known by its very request: an equal one is somebody else's."""
    await tunnels.open(wanted)
    tunnels.withdraw(replace(wanted))
    assert len(link(tunnels).bound) == 1
    tunnels.withdraw(wanted)
    assert link(tunnels).bound == []
    assert tunnels.status().tunnels == 0


async def test_an_error_leaves_nothing(tunnels: Tunnels, wanted: Request) -> None:
    """The place is free for the next try."""
    await tunnels.open(replace(wanted, port=1))
    link(tunnels).error = AuthError("no")
    with pytest.raises(AuthError):
        await tunnels.open(wanted)
    assert tunnels.status().tunnels == 1


@pytest.mark.parametrize(
    ("attempts", "text"),
    [
        ((), r"no tunnel within 0\.01 s: is the network slow\? raise timeout="),
        ((Attempt("a", "a:1", "no answer yet"),), r"no tunnel within 0\.01 s\n  a \(a:1\): no answer yet"),
    ],
)
async def test_time_that_runs_out_says_on_whom(
    tunnels: Tunnels, wanted: Request, attempts: tuple[Attempt, ...], text: str
) -> None:
    """As far as that is known."""
    await tunnels.open(replace(wanted, port=1))
    link(tunnels).answers = False
    link(tunnels).attempts = attempts
    with pytest.raises(UnreachableError, match=text) as raised:
        await tunnels.open(replace(wanted, timeout=0.01))
    assert raised.value.attempts == attempts


async def test_status_says_how_things_stand(tunnels: Tunnels, wanted: Request) -> None:
    """Apart when one link is, with its trouble."""
    await tunnels.open(wanted)
    assert tunnels.status() == module.Status(1, True, "", FakeCarrier.counters)
    link(tunnels).attached = False
    link(tunnels).trouble = "its node is gone"
    assert tunnels.status() == module.Status(1, False, "its node is gone", FakeCarrier.counters)


async def test_an_internal_failure_is_every_tunnel_s_loss(tunnels: Tunnels, wanted: Request) -> None:
    """The program is told, and asked to report it."""
    await tunnels.open(wanted)
    await tunnels.close(ZeroDivisionError("inside"))
    (error,) = link(tunnels).lost
    assert "inside" in str(error)
    assert link(tunnels).closed

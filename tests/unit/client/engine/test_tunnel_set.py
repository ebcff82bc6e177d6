"""portway.engine.tunnel_set: the tunnels of a link, bound again on whatever session there is, and withdrawn."""

from collections.abc import Callable
from pathlib import Path

import pytest
from portway.engine import tunnel_set as module
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.key_file import KeyFile
from portway.engine.session import SessionOver
from portway.engine.tunnel_set import UNBIND_AGAIN
from portway.errors import AuthError, InvalidError
from portway_carrier.values import LocalService, ProxyHeaderForm
from portway_testkit.fakes.fake_tunnel_set import FakeSession, Owner


async def test_a_tunnel_is_served_from_before_its_bind(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """A visit may overtake BOUND."""
    held = make_tunnel(1234)
    owner.tunnels.add(held)
    assert owner.tunnels.table == {held.label: LocalService(1234)}
    assert len(owner.tunnels) == 1
    assert not owner.tunnels.any_open
    await owner.tunnels.bind(owner.session(), held)  # type: ignore[arg-type]
    assert owner.tunnels.any_open


async def test_the_ports_of_an_open_tunnel_are_told(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """In PROXY headers, from BOUND on; one that was closed meanwhile is not served again."""
    held = make_tunnel(1234, proxy_protocol=2)
    owner.tunnels.add(held)
    assert owner.tunnels.table == {held.label: LocalService(1234, None, ProxyHeaderForm(2))}
    await owner.tunnels.bind(owner.session(), held)  # type: ignore[arg-type]
    assert held.public.port
    form = ProxyHeaderForm(2, held.public.port, held.public.unencrypted_port)
    assert owner.tunnels.table == {held.label: LocalService(1234, None, form)}
    owner.tunnels.withdraw(held)
    await owner.tunnels.bind(owner.session(b"two"), held)  # type: ignore[arg-type]
    assert owner.tunnels.table == {}


async def test_one_presence_is_for_many(owner: Owner, make_tunnel: Callable[..., HeldTunnel]) -> None:
    """All claims of a new session are signed and listed before the first BIND."""
    session = owner.session()
    many = [make_tunnel(port) for port in range(1, 20)]
    for held in many:
        owner.tunnels.add(held)
        await owner.tunnels.bind(session, held)  # type: ignore[arg-type]
    assert len(session.presences) == len(many)
    next_one = owner.session(b"two")
    assert owner.tunnels.announce_missing(next_one) == many  # type: ignore[arg-type]
    for held in many:
        await owner.tunnels.bind_again(next_one, held)  # type: ignore[arg-type]
    assert [len(presence.ids) for presence in next_one.presences] == [len(many)]
    assert {bind.label for bind in next_one.binds} == {held.label for held in many}


async def test_a_session_has_so_many_claims_and_no_more(
    owner: Owner, make_tunnel: Callable[..., HeldTunnel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next tunnel is an error that says what to do."""
    monkeypatch.setattr(module, "MAX_CLAIMS", 2)
    for port in (1, 2):
        owner.tunnels.add(make_tunnel(port))
    with pytest.raises(InvalidError, match="use another process"):
        owner.tunnels.add(make_tunnel(3))


async def test_nothing_is_signed_for_a_session_that_is_over(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """It would take the tunnel from the session that has it."""
    held, session = opened
    gone = FakeSession(b"gone")
    gone.up = False
    with pytest.raises(SessionOver):
        await owner.tunnels.bind(gone, held)  # type: ignore[arg-type]
    assert held.held_by(session.credentials)


async def test_what_a_session_does_not_hold_is_missing_on_it(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """Only tunnels that were open once: who opens one binds it."""
    held, session = opened
    owner.tunnels.add(make_tunnel())
    assert owner.tunnels.missing_on(session) == []  # type: ignore[arg-type]
    other = owner.session(b"two")
    assert owner.tunnels.missing_on(other) == [held]  # type: ignore[arg-type]
    await owner.tunnels.bind_again(other, held)  # type: ignore[arg-type]
    assert owner.tunnels.missing_on(other) == []  # type: ignore[arg-type]
    assert other.epochs == [2]


async def test_closing_tells_whether_a_node_is_to_be_told(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """Not of one that was never shown, nor twice."""
    held, _ = opened
    never_shown = make_tunnel()
    owner.tunnels.add(never_shown)
    assert not owner.tunnels.withdraw(never_shown)
    assert owner.times_empty == 0
    assert owner.tunnels.withdraw(held)
    assert owner.times_empty == 1
    assert not owner.tunnels.withdraw(held)


async def test_a_resumed_session_is_told_what_it_may_have_missed(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """However long it was away; a new one knows nothing of it."""
    held, session = opened
    owner.tunnels.withdraw(held)
    owner.now += 10 * UNBIND_AGAIN
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == [held.label]
    owner.tunnels.withdraw_again(session, resumed=False)  # type: ignore[arg-type]
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == [held.label]


async def test_a_label_that_is_open_again_is_not_withdrawn(
    owner: Owner, make_tunnel: Callable[..., HeldTunnel], tmp_path: Path
) -> None:
    """A key file's comes back: a resumed session that is told of the first one's end would end the second."""
    key_file, session = KeyFile(tmp_path / "key"), owner.session()
    first, second = (make_tunnel(port, key_file=key_file) for port in (1, 2))
    owner.tunnels.add(first)
    await owner.tunnels.bind(session, first)  # type: ignore[arg-type]
    owner.tunnels.withdraw(first)
    owner.tunnels.add(second)
    await owner.tunnels.bind(session, second)  # type: ignore[arg-type]
    owner.tunnels.withdraw(first)
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == []
    assert owner.tunnels.table == {second.label: LocalService(2)}


async def test_what_has_arrived_long_ago_is_not_said_again(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession]
) -> None:
    """A lost connection takes only the last seconds with it."""
    held, session = opened
    owner.tunnels.withdraw(held)
    owner.now += UNBIND_AGAIN + 1
    owner.tunnels.forget_withdrawn()
    owner.tunnels.withdraw_again(session, resumed=True)  # type: ignore[arg-type]
    assert session.unbinds == []


async def test_all_are_lost_at_once(
    owner: Owner, opened: tuple[HeldTunnel, FakeSession], make_tunnel: Callable[..., HeldTunnel]
) -> None:
    """But those that are only being opened, whose openers are told."""
    held, _ = opened
    opening = make_tunnel()
    owner.tunnels.add(opening)
    owner.tunnels.lose_all(AuthError("revoked"))
    assert held.lost is not None
    assert opening.lost is None
    assert len(owner.tunnels) == 1

"""portway.engine.held_tunnel: one tunnel's label, epochs, holder and loss."""

from collections.abc import Callable

import pytest
from portway.engine.dialogue import SessionCredentials, TunnelBound
from portway.engine.held_tunnel import HeldTunnel, LabelChain, ReadyChains
from portway.errors import RemoteError, TunnelLostError
from portway_proto.wire.labels import CHAIN_LENGTH, Chain, is_label, verify_proof

ONE = SessionCredentials(b"one", b"secret")
TWO = SessionCredentials(b"two", b"secret")
ANSWER = TunnelBound(1, "a.test", 443, "", 0, b"")


def test_epochs_are_proved_in_turn() -> None:
    """From 1 on, each once."""
    chain = LabelChain(Chain())
    assert is_label(chain.label)
    assert chain.epoch == 0
    for expected in (1, 2, 3):
        epoch, proof = chain.next_proof()
        assert (epoch, chain.epoch) == (expected, expected)
        assert verify_proof(chain.label, epoch, proof)


def test_a_chain_that_is_used_up_says_so() -> None:
    """After epoch 4096 a new tunnel is needed."""
    chain = LabelChain(Chain())
    for _ in range(CHAIN_LENGTH):
        chain.next_proof()
    with pytest.raises(RemoteError, match="open a new tunnel"):
        chain.next_proof()
    assert chain.epoch == CHAIN_LENGTH


def test_no_two_chains_are_the_same() -> None:
    """Whether they were ready or not."""
    chains = ReadyChains()
    taken = [chains.take()]
    chains.prepare()
    taken += [chains.take(), chains.take()]
    assert len({chain.label for chain in taken}) == 3


def test_one_is_kept_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken without walking a chain, and made on a thread of its own."""
    chains = ReadyChains()
    chains.prepare()
    chains.prepare()  # is under way, or done
    making = chains._making
    assert making is not None
    making.join()
    monkeypatch.setattr("portway.engine.held_tunnel.Chain", lambda: pytest.fail("there was one ready"))
    assert is_label(chains.take().label)


def test_each_bind_has_the_next_epoch(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """In the same session too, once the one before was answered."""
    held = make_tunnel()
    assert not held.bind_sent
    for epoch, session in enumerate((ONE, ONE, TWO), 1):
        bind = held.bind_on(session)
        assert bind.epoch == epoch
        assert verify_proof(held.label, bind.epoch, bind.proof)
        held.bound(session, ANSWER)
    assert held.bind_sent


def test_the_latest_epoch_is_that_of_the_last_bind(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """With its proof: what another node is told of it."""
    held = make_tunnel()
    held.bind_on(ONE)
    bind = held.bind_on(TWO)
    assert held.latest == (2, bind.proof)


def test_a_bind_without_an_answer_is_repeated_in_its_session(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """With the same epoch; any other session gets the next one."""
    held = make_tunnel()
    first = held.bind_on(ONE)
    assert held.bind_on(ONE) is first
    assert held.bind_on(TWO).epoch == 2
    assert held.bind_on(ONE).epoch == 3


def test_a_refused_bind_is_not_repeated(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """It was answered."""
    held = make_tunnel()
    held.bind_on(ONE)
    held.refused()
    assert held.bind_on(ONE).epoch == 2


def test_the_session_whose_node_answered_holds_it(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """Until another is asked, or the node lets go."""
    held = make_tunnel()
    held.bind_on(ONE)
    assert not held.held_by(ONE)
    held.bound(ONE, ANSWER)
    assert held.held_by(ONE)
    held.unbound()
    assert not held.held_by(ONE)
    held.bind_on(ONE)
    held.bound(ONE, ANSWER)
    held.bind_on(TWO)
    assert not held.held_by(ONE)
    assert not held.held_by(TWO)


def test_addresses_stay_what_they_were(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """The program has told them to others by now."""
    held = make_tunnel()
    held.bound(ONE, ANSWER)
    tunnel = held.public
    held.bound(TWO, TunnelBound(1, "b.test", 8443, "", 0, b""))
    assert held.public is tunnel
    assert tunnel.host == "a.test"


def test_a_lost_tcp_port_is_an_error_in_the_log(
    make_tunnel: Callable[..., HeldTunnel], caplog: pytest.LogCaptureFixture
) -> None:
    """The https address works on; the label is not written out, for the URL is a secret."""
    held = make_tunnel()
    held.bound(ONE, TunnelBound(1, "a.test", 443, "a.test", 20001, b""))
    held.bound(TWO, TunnelBound(1, "a.test", 443, "a.test", 20002, b""))
    assert "could not keep its TCP port 20001" in caplog.text
    assert held.label not in caplog.text


def test_the_last_ticket_is_shown(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """An answer without one takes none away."""
    held = make_tunnel()
    assert held.bind_on(ONE).ticket == b""
    held.bound(ONE, TunnelBound(1, "a.test", 443, "", 0, b"ticket"))
    held.bound(ONE, ANSWER)
    assert held.bind_on(TWO).ticket == b"ticket"


def test_the_ticket_of_the_port_that_is_known_is_kept(
    make_tunnel: Callable[..., HeldTunnel], caplog: pytest.LogCaptureFixture
) -> None:
    """Another port, or another region's with the same number, is of no use: whoever can give the known one is asked."""
    caplog.set_level("INFO")
    held = make_tunnel()
    known = TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"known")
    held.bound(ONE, known)
    for other in (
        TunnelBound(1, "label.fra.test", 443, "fra.test", 20002, b"another port"),
        TunnelBound(1, "label.iad.test", 443, "iad.test", 20001, b"another region"),
    ):
        caplog.clear()
        held.bound(TWO, other)
        assert "could not keep its TCP port 20001" in caplog.text
        assert held.bind_on(ONE).ticket == b"known"
    held.bound(ONE, TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"newer"))
    held.bound(ONE, TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"newest"))
    assert caplog.text.count("has its TCP port 20001 again") == 1
    assert held.bind_on(TWO).ticket == b"newest"


def test_a_tunnel_without_a_raw_port_loses_none(
    make_tunnel: Callable[..., HeldTunnel], caplog: pytest.LogCaptureFixture
) -> None:
    """It comes to another region, and nothing is said."""
    held = make_tunnel()
    held.bound(ONE, TunnelBound(1, "label.fra.test", 443, "", 0, b""))
    held.bound(TWO, TunnelBound(1, "label.iad.test", 443, "", 0, b""))
    assert caplog.text == ""
    assert held.public.host == "label.fra.test"


def test_a_tunnel_is_lost_once(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """Its owner and the program are told, with the first reason."""
    lost: list[HeldTunnel] = []
    told: list[TunnelLostError] = []
    held = make_tunnel(lost=lost, tunnel_lost=told.append)
    held.bound(ONE, ANSWER)
    reason = RemoteError("first")
    held.lose(reason)
    held.lose(RemoteError("second"))
    assert lost == [held]
    assert told == [held.lost]
    assert told[0].reason is reason
    assert told[0].url == "https://a.test"


def test_one_that_was_never_open_is_not_lost(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """Who opens it is told otherwise."""
    lost: list[HeldTunnel] = []
    held = make_tunnel(lost=lost)
    held.lose(RemoteError("why"))
    assert (held.lost, lost) == (None, [])


def test_a_callback_that_fails_is_logged(
    make_tunnel: Callable[..., HeldTunnel], caplog: pytest.LogCaptureFixture
) -> None:
    """It is the program's own."""

    def fail(error: TunnelLostError) -> None:
        raise ZeroDivisionError

    held = make_tunnel(tunnel_lost=fail)
    held.bound(ONE, ANSWER)
    held.lose(RemoteError("why"))
    assert "callback failed" in caplog.text

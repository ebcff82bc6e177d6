"""portway.engine.binding: one tunnel's epochs, who holds it, and its loss."""

from collections.abc import Callable

import pytest
from portway.engine.binding import Binding
from portway.engine.dialogue import SessionKey, TunnelBound
from portway.errors import RemoteError, TunnelLostError
from portway_proto.wire.labels import verify_proof

ONE = SessionKey(b"one", b"secret")
TWO = SessionKey(b"two", b"secret")
ANSWER = TunnelBound(1, "a.test", 443, "", 0, b"")


def test_each_bind_has_the_next_epoch(make_binding: Callable[..., Binding]) -> None:
    """In the same session too, once the one before was answered."""
    binding = make_binding()
    assert not binding.shown
    for epoch, session in enumerate((ONE, ONE, TWO), 1):
        bind = binding.bind_on(session)
        assert bind.epoch == epoch
        assert verify_proof(binding.label, bind.epoch, bind.proof)
        binding.bound(session, ANSWER)
    assert binding.shown


def test_the_latest_epoch_is_that_of_the_last_bind(make_binding: Callable[..., Binding]) -> None:
    """With its proof: what another node is told of it."""
    binding = make_binding()
    binding.bind_on(ONE)
    bind = binding.bind_on(TWO)
    assert binding.latest == (2, bind.proof)


def test_a_bind_without_an_answer_is_repeated_in_its_session(make_binding: Callable[..., Binding]) -> None:
    """With the same epoch; any other session gets the next one."""
    binding = make_binding()
    first = binding.bind_on(ONE)
    assert binding.bind_on(ONE) is first
    assert binding.bind_on(TWO).epoch == 2
    assert binding.bind_on(ONE).epoch == 3


def test_a_refused_bind_is_not_repeated(make_binding: Callable[..., Binding]) -> None:
    """It was answered."""
    binding = make_binding()
    binding.bind_on(ONE)
    binding.refused()
    assert binding.bind_on(ONE).epoch == 2


def test_the_session_whose_node_answered_holds_it(make_binding: Callable[..., Binding]) -> None:
    """Until another is asked, or the node lets go."""
    binding = make_binding()
    binding.bind_on(ONE)
    assert not binding.held_by(ONE)
    binding.bound(ONE, ANSWER)
    assert binding.held_by(ONE)
    binding.unbound()
    assert not binding.held_by(ONE)
    binding.bind_on(ONE)
    binding.bound(ONE, ANSWER)
    binding.bind_on(TWO)
    assert not binding.held_by(ONE)
    assert not binding.held_by(TWO)


def test_addresses_stay_what_they_were(make_binding: Callable[..., Binding]) -> None:
    """The program has told them to others by now."""
    binding = make_binding()
    binding.bound(ONE, ANSWER)
    tunnel = binding.opened
    binding.bound(TWO, TunnelBound(1, "b.test", 8443, "", 0, b""))
    assert binding.opened is tunnel
    assert tunnel.host == "a.test"


def test_a_lost_tcp_port_is_an_error_in_the_log(
    make_binding: Callable[..., Binding], caplog: pytest.LogCaptureFixture
) -> None:
    """The https address works on; the label is not written out, for the URL is a secret."""
    binding = make_binding()
    binding.bound(ONE, TunnelBound(1, "a.test", 443, "a.test", 20001, b""))
    binding.bound(TWO, TunnelBound(1, "a.test", 443, "a.test", 20002, b""))
    assert "could not keep its TCP port 20001" in caplog.text
    assert binding.label not in caplog.text


def test_the_last_ticket_is_shown(make_binding: Callable[..., Binding]) -> None:
    """An answer without one takes none away."""
    binding = make_binding()
    assert binding.bind_on(ONE).ticket == b""
    binding.bound(ONE, TunnelBound(1, "a.test", 443, "", 0, b"ticket"))
    binding.bound(ONE, ANSWER)
    assert binding.bind_on(TWO).ticket == b"ticket"


def test_the_ticket_of_the_port_that_is_known_is_kept(
    make_binding: Callable[..., Binding], caplog: pytest.LogCaptureFixture
) -> None:
    """Another port, or another region's with the same number, is of no use: whoever can give the known one is asked."""
    caplog.set_level("INFO")
    binding = make_binding()
    known = TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"known")
    binding.bound(ONE, known)
    for other in (
        TunnelBound(1, "label.fra.test", 443, "fra.test", 20002, b"another port"),
        TunnelBound(1, "label.iad.test", 443, "iad.test", 20001, b"another region"),
    ):
        caplog.clear()
        binding.bound(TWO, other)
        assert "could not keep its TCP port 20001" in caplog.text
        assert binding.bind_on(ONE).ticket == b"known"
    binding.bound(ONE, TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"newer"))
    binding.bound(ONE, TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"newest"))
    assert caplog.text.count("has its TCP port 20001 again") == 1
    assert binding.bind_on(TWO).ticket == b"newest"


def test_a_tunnel_without_a_raw_port_loses_none(
    make_binding: Callable[..., Binding], caplog: pytest.LogCaptureFixture
) -> None:
    """It comes to another region, and nothing is said."""
    binding = make_binding()
    binding.bound(ONE, TunnelBound(1, "label.fra.test", 443, "", 0, b""))
    binding.bound(TWO, TunnelBound(1, "label.iad.test", 443, "", 0, b""))
    assert caplog.text == ""
    assert binding.opened.host == "label.fra.test"


def test_a_tunnel_is_lost_once(make_binding: Callable[..., Binding]) -> None:
    """Its owner and the program are told, with the first reason."""
    lost: list[Binding] = []
    told: list[TunnelLostError] = []
    binding = make_binding(lost=lost, tunnel_lost=told.append)
    binding.bound(ONE, ANSWER)
    reason = RemoteError("first")
    binding.lose(reason)
    binding.lose(RemoteError("second"))
    assert lost == [binding]
    assert told == [binding.lost]
    assert told[0].reason is reason
    assert told[0].url == "https://a.test"


def test_one_that_was_never_open_is_not_lost(make_binding: Callable[..., Binding]) -> None:
    """Who opens it is told otherwise."""
    lost: list[Binding] = []
    binding = make_binding(lost=lost)
    binding.lose(RemoteError("why"))
    assert (binding.lost, lost) == (None, [])


def test_a_callback_that_fails_is_logged(
    make_binding: Callable[..., Binding], caplog: pytest.LogCaptureFixture
) -> None:
    """It is the program's own."""

    def fail(error: TunnelLostError) -> None:
        raise ZeroDivisionError

    binding = make_binding(tunnel_lost=fail)
    binding.bound(ONE, ANSWER)
    binding.lose(RemoteError("why"))
    assert "callback failed" in caplog.text

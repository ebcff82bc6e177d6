"""portway.engine.held_tunnel: one tunnel's label, epochs, holder and loss."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from portway.engine.dialogue import BindRequest, SessionCredentials, TunnelBound
from portway.engine.directory import Node
from portway.engine.held_tunnel import OUTBIDS, HeldTunnel
from portway.engine.key_file import KeyFile
from portway.engine.signer import OUTBID, Signer
from portway.errors import RemoteError, TakenOverError, TunnelLostError
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_runtime.clocks import RegistryClock
from portway_runtime.endpoints import Endpoint
from portway_testkit.signers import CLUSTER, CLUSTER_ID, NOW_MS, SessionSigner

ONE = SessionCredentials(b"one", b"secret")
TWO = SessionCredentials(b"two", b"secret")
NODE = Node("fra-1", "fra", Endpoint("fra-1.test", 443), "fra-1.node.portway.internal", "test")
FAR = Node("iad-1", "iad", Endpoint("iad-1.test", 443), "iad-1.node.portway.internal", "test")
SIGNER = Signer(RegistryClock(lambda: 0.0, lambda: 0.0))
SIGNER.learn(CLUSTER_ID, NOW_MS)
ANSWER = TunnelBound(1, "a.test", 443, "", 0, b"")


def bind(held: HeldTunnel, session: SessionCredentials) -> BindRequest:
    return held.bind_on(session, NODE, SIGNER)


def test_each_bind_has_a_claim_of_the_next_epoch(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """From the registry's time on, for the session's node, in the same session too once the one before was answered."""
    held = make_tunnel(unencrypted=True)
    assert not held.bind_sent
    for epoch, session in enumerate((ONE, ONE, TWO), NOW_MS):
        claim = bind(held, session).claim
        assert (claim.epoch, claim.node, claim.session_key) == (epoch, NODE.name, SIGNER.session_key)
        assert claim.label == held.label
        assert claim.signed(CLUSTER).is_genuine()
        assert TunnelOptions.FromString(claim.options) == TunnelOptions(unencrypted=True)
        assert held.latest is claim
        held.bound(session, ANSWER)
    assert held.bind_sent


def test_a_bind_names_the_url_s_host(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """Once there is one; it stays that of the first node."""
    held = make_tunnel()
    assert bind(held, ONE).host == ""
    held.bound(ONE, ANSWER)
    for session, host in ((TWO, "b.test"), (ONE, "c.test")):
        assert bind(held, session).host == "a.test"
        held.bound(session, TunnelBound(1, host, 443, "", 0, b""))


def test_tunnels_have_labels_of_their_own(make_tunnel: Callable[..., HeldTunnel], tmp_path: Path) -> None:
    """Unless they have one key file: that is its label."""
    assert len({make_tunnel().label for _ in range(3)}) == 3
    assert len({make_tunnel(key_file=KeyFile(tmp_path / "key")).label for _ in range(3)}) == 1


def test_a_bind_without_an_answer_is_repeated_in_its_session(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """With the same claim; any other session gets the next one."""
    held = make_tunnel()
    first = bind(held, ONE)
    assert bind(held, ONE) is first
    assert bind(held, TWO).claim.epoch == NOW_MS + 1
    assert bind(held, ONE).claim.epoch == NOW_MS + 2


def test_a_refused_bind_is_not_repeated(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """It was answered."""
    held = make_tunnel()
    bind(held, ONE)
    held.refused()
    assert bind(held, ONE).claim.epoch == NOW_MS + 1


def test_another_program_is_outbid_by_the_later_one_alone(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """A tunnel that was never bound outbids it, a few times; one that was is over."""
    held = make_tunnel()
    theirs = SessionSigner()
    for times in range(1, OUTBIDS + 1):
        owner = theirs.claim(node="fra-2", epoch=NOW_MS + 10_000 * times)
        bind(held, ONE)
        held.refused()
        held.outranked(owner, own=False)
        assert bind(held, ONE).claim.epoch == owner.epoch + OUTBID
    with pytest.raises(TakenOverError, match="a key file of its own"):
        held.outranked(owner, own=False)
    bound = make_tunnel()
    bind(bound, ONE)
    bound.bound(ONE, ANSWER)
    with pytest.raises(TakenOverError):
        bound.outranked(owner, own=False)


def test_a_claim_of_its_own_is_followed_by_the_next(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """An answer that was lost had used it up."""
    held = make_tunnel()
    bind(held, ONE)
    held.bound(ONE, ANSWER)
    held.outranked(SessionSigner().claim(node="fra-2", epoch=NOW_MS + 7), own=True)
    assert bind(held, TWO).claim.epoch == NOW_MS + 8


def test_the_session_whose_node_answered_holds_it(make_tunnel: Callable[..., HeldTunnel]) -> None:
    """Until another is asked, or the node lets go."""
    held = make_tunnel()
    bind(held, ONE)
    assert not held.held_by(ONE)
    held.bound(ONE, ANSWER)
    assert held.held_by(ONE)
    held.unbound()
    assert not held.held_by(ONE)
    bind(held, ONE)
    held.bound(ONE, ANSWER)
    bind(held, TWO)
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
    assert bind(held, ONE).ticket == b""
    held.bound(ONE, TunnelBound(1, "a.test", 443, "", 0, b"ticket"))
    held.bound(ONE, ANSWER)
    assert bind(held, TWO).ticket == b"ticket"


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
        assert bind(held, ONE).ticket == b"known"
    held.bound(ONE, TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"newer"))
    held.bound(ONE, TunnelBound(1, "label.fra.test", 443, "fra.test", 20001, b"newest"))
    assert caplog.text.count("has its TCP port 20001 again") == 1
    assert bind(held, TWO).ticket == b"newest"


def test_a_key_file_keeps_the_ticket_of_each_region(
    make_tunnel: Callable[..., HeldTunnel], tmp_path: Path, tickets_written: Callable[[], None]
) -> None:
    """A program that is started again asks for the port that its tunnel had in the region that it comes to."""
    path = tmp_path / "key"
    for node, ticket in ((NODE, b"of fra"), (FAR, b"of iad")):
        key_file = KeyFile(path)
        held = make_tunnel(unencrypted=True, key_file=key_file)
        assert held.bind_on(ONE, node, SIGNER).ticket == b""
        held.bound(ONE, TunnelBound(1, f"{held.label}.{node.zone}", 443, node.zone, 20001, ticket))
        tickets_written()
    for node, ticket in ((NODE, b"of fra"), (FAR, b"of iad")):
        again = make_tunnel(unencrypted=True, key_file=KeyFile(path))
        assert again.bind_on(ONE, node, SIGNER).ticket == ticket
    without = make_tunnel(key_file=KeyFile(path))
    assert without.bind_on(ONE, NODE, SIGNER).ticket == b""


@pytest.mark.parametrize("kept", ["in memory", "in a file"])
def test_another_engine_goes_on_with_it(
    make_tunnel: Callable[..., HeldTunnel],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    tickets_written: Callable[[], None],
    kept: str,
) -> None:
    """Label, address and ticket are those of before, though the new engine comes to another region first."""
    file = KeyFile(tmp_path / "key") if kept == "in a file" else None
    first = make_tunnel(unencrypted=True, key_file=file)
    first.bound(ONE, TunnelBound(1, f"{first.label}.fra.test", 443, "fra.test", 20001, b"of fra"))
    before = first.kept
    if file is not None:
        file.path.unlink()
        file = KeyFile(file.path, before.private_key)
        assert not file.path.exists()
    again = HeldTunnel(replace(first.request, before=before), lambda _: None, file)
    assert again.label == first.label
    assert again.tunnel is None  # it is not bound yet
    assert again.bind_on(ONE, FAR, SIGNER).ticket == b"of fra"
    again.bound(ONE, TunnelBound(1, f"{first.label}.iad.test", 443, "iad.test", 20007, b"of iad"))
    assert "could not keep its TCP port 20001" in caplog.text
    assert again.public == first.public
    assert again.bind_on(TWO, NODE, SIGNER).ticket == b"of fra"
    again.bound(TWO, TunnelBound(1, f"{first.label}.fra.test", 443, "fra.test", 20001, b"newer"))
    assert again.kept == replace(before, ticket=b"newer")
    tickets_written()


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
    assert caplog.records[-1].levelno == logging.ERROR
    assert caplog.records[-1].getMessage().endswith("is lost for good: why")


@pytest.mark.parametrize(("told", "level"), [(True, logging.DEBUG), (False, logging.ERROR)])
def test_a_loss_is_an_error_in_the_log_unless_the_program_is_told(
    make_tunnel: Callable[..., HeldTunnel], caplog: pytest.LogCaptureFixture, told: bool, level: int
) -> None:
    """It says so itself, or handles it: the log would be the second to say it."""
    caplog.set_level(logging.DEBUG, "portway")
    held = make_tunnel(tunnel_lost=(lambda _: None) if told else None)
    held.bound(ONE, ANSWER)
    held.lose(RemoteError("why"))
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (level, f"tunnel {held.label[:4]}… is lost for good: why")

"""What a visitor may get of a tunnel that is open, and of one that is closed: the rules of scripts/chaos."""

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from portway_lab.chaos.ledger import Got, Ledger, Life, Visit
from portway_lab.cluster.clients import NamedTunnel, lost_ports

REST = 15.0
OPEN = NamedTunnel("open", "https://open", "open.fra.localhost", 443, 0.0, 20_001)
CLOSED = NamedTunnel("closed", "https://closed", "closed.fra.localhost", 443, 0.0, 20_002)
# Told to close at 100 s, and its client gone at 101 s.
LET_GO, ENDED = 100.0, 101.0


def visit(got: Got, began: float, ended: float, *, raw: bool = False) -> Visit:
    return Visit(raw, "fra", began, ended, got, "what came")


def violation(done: Visit) -> str:
    return Life(CLOSED, LET_GO, ENDED).violation(done, REST)


@pytest.mark.parametrize("raw", [False, True])
def test_an_open_tunnel_gives_its_own_bytes_or_nothing(raw: bool) -> None:
    """Nodes die, so a visit may fail; a byte of another tunnel is a violation at either address."""
    life = Life(OPEN)
    assert not life.violation(visit(Got.OWN, 1.0, 2.0, raw=raw), REST)
    assert not life.violation(visit(Got.NOTHING, 1.0, 2.0, raw=raw), REST)
    assert "open at fra, open: what came" in life.violation(visit(Got.FOREIGN, 1.0, 2.0), REST)
    assert "open (raw) at fra, open: what came" in life.violation(visit(Got.FOREIGN, 1.0, 2.0, raw=True), REST)


@pytest.mark.parametrize("raw", [False, True])
def test_the_hostile_nodes_answer_is_a_violation_where_it_may_not_answer(raw: bool) -> None:
    """Of an open tunnel and of a closed one, at a port that has rested, too."""
    got = visit(Got.HOSTILE, 1.0, 2.0, raw=raw)
    assert "is answered by the hostile node: what came" in Life(OPEN).violation(got, REST)
    assert not Life(OPEN).violation(replace(got, in_its_hands=True), REST)
    late = visit(Got.HOSTILE, ENDED + REST + 1.0, ENDED + REST + 2.0, raw=raw)
    assert "is answered by the hostile node" in violation(late)


@pytest.mark.parametrize("raw", [False, True])
def test_who_came_before_the_client_ended_may_be_served(raw: bool) -> None:
    """A visit in progress finishes."""
    assert not violation(visit(Got.OWN, ENDED - 0.5, ENDED + 3.0, raw=raw))


@pytest.mark.parametrize("raw", [False, True])
def test_a_tunnel_that_answers_after_its_client_ended_is_a_violation(raw: bool) -> None:
    """Its own bytes come too late: nobody may have them any more."""
    assert "answers 0.5 s after its client ended" in violation(visit(Got.OWN, ENDED + 0.5, ENDED + 0.6, raw=raw))


def test_anothers_bytes_under_a_closed_name_are_a_violation_for_ever() -> None:
    """A label is never given again."""
    assert violation(visit(Got.FOREIGN, ENDED + 1_000, ENDED + 1_001))


@pytest.mark.parametrize(
    ("ended", "wrong"), [(LET_GO + 0.1, True), (LET_GO + REST, True), (LET_GO + REST + 0.1, False)]
)
def test_a_raw_port_is_nobody_elses_during_its_rest(ended: float, wrong: bool) -> None:
    """After it another tunnel may have it, and who still holds the old address reaches that one."""
    assert bool(violation(visit(Got.FOREIGN, ended - 0.1, ended, raw=True))) is wrong


def test_a_port_that_its_client_says_is_lost_rests_from_then_on() -> None:
    """Within its rest another's bytes there are a violation; what it has again is its own again."""
    now = 50.0
    ledger = Ledger(REST, lambda: now)
    ledger.opened([OPEN, CLOSED])
    ledger.lost_ports([OPEN.raw_port])
    assert ledger.without_port() == ["open"]
    life = next(life for life, _ in (ledger.pick(random.Random(seed)) for seed in range(50)) if life.tunnel is OPEN)
    assert life.violation(visit(Got.FOREIGN, now, now + REST, raw=True), REST)
    assert not life.violation(visit(Got.FOREIGN, now, now + REST + 0.1, raw=True), REST)
    assert life.violation(visit(Got.FOREIGN, now, now + REST + 0.1), REST)
    ledger.lost_ports([])
    assert ledger.without_port() == []
    assert life.violation(visit(Got.FOREIGN, now, now + REST + 0.1, raw=True), REST)


def test_what_a_client_says_of_its_ports_is_read(tmp_path: Path) -> None:
    """The words are the client's own."""
    log = tmp_path / "client.log"
    log.write_text(
        "tunnel tbus… could not keep its TCP port 20377: only its https address works now; open it again\n"
        "tunnel roct… could not keep its TCP port 20385: only its https address works now; open it again\n"
        "tunnel tbus… has its TCP port 20377 again\n"
    )
    client: Any = SimpleNamespace(log=log)
    assert lost_ports(client) == {20_385}


def test_a_client_that_ends_by_itself_has_released_its_tunnels_then() -> None:
    """Nobody told it to."""
    ledger = Ledger(REST, lambda: 7.0)
    ledger.opened([OPEN, CLOSED])
    ledger.ended(["closed"])
    assert [(life.tunnel, life.released, life.ended) for life in ledger.closed()] == [(CLOSED, 7.0, 7.0)]
    assert ledger.open_now() == [OPEN]


def test_closed_tunnels_are_visited_on_and_their_raw_ports_while_they_rest() -> None:
    """Both addresses of both tunnels are picked; a port that has rested is not, for it may be another's."""
    now = 100.0
    ledger = Ledger(REST, lambda: now)
    ledger.opened([OPEN, CLOSED])
    ledger.released(["closed"], now)
    assert ledger.open_now() == [OPEN]
    ledger.ended(["closed"])
    lot = random.Random(5)

    def picked() -> set[tuple[str, bool]]:
        return {(life.tunnel.name, raw) for life, raw in (ledger.pick(lot) for _ in range(300))}

    assert picked() == {("open", False), ("open", True), ("closed", False), ("closed", True)}
    now += REST + 0.1
    assert picked() == {("open", False), ("open", True), ("closed", False)}


def test_a_tunnel_without_a_raw_port_is_not_visited_there() -> None:
    """There is none."""
    ledger = Ledger(REST)
    ledger.opened([NamedTunnel("tls", "https://tls", "tls.iad.localhost", 443, 0.0)])
    lot = random.Random(5)
    assert not any(raw for _, raw in (ledger.pick(lot) for _ in range(50)))
    assert ledger.closed() == []
    assert all(life.ended == math.inf for life, _ in (ledger.pick(lot) for _ in range(5)))

"""Visitors of scripts/chaos see what is wrong: wrong and late answers are fed to them over real sockets."""

import contextlib
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from portway_lab.chaos import consistency
from portway_lab.chaos.hostile_record import HostileRecord, RecordWriter
from portway_lab.chaos.ledger import Ledger
from portway_lab.chaos.own_answer import NAME
from portway_lab.chaos.visitors import Visitors
from portway_lab.cluster import visits
from portway_lab.cluster.clients import NamedTunnel
from portway_lab.cluster.visits import Ask, WrongBytes, answer, answer_upload
from portway_testkit.processes.ports import free_port
from portway_testkit.waiting import eventually

REST = 30.0


class Origin(socketserver.ThreadingTCPServer):
    """In place of a node's raw port: answers every request in the name that it is given, or not at all."""

    daemon_threads = False
    block_on_close = True
    allow_reuse_address = True

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", free_port()), Handler)
        self.name = name


class Handler(socketserver.StreamRequestHandler):
    server: Origin

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while line := self.rfile.readline().decode():
                method, path, _ = line.split()
                size = int(path.strip("/"))
                fields = dict(field.decode().strip().split(": ", 1) for field in iter(self.rfile.readline, b"\r\n"))
                body = self.rfile.read(int(fields.get("Content-Length", "0")))
                name = self.server.name
                self.wfile.write(answer_upload(name, body) if method == "POST" else answer(name, size))


class Place:
    """In place of a network: this machine."""

    def address(self, node: str) -> str:
        return "127.0.0.1"

    @contextmanager
    def inside(self, place: str) -> Iterator[None]:
        yield


class FakeStage:
    """One raw tunnel, at one node."""

    def __init__(self, port: int, record: Path) -> None:
        self.tunnel = NamedTunnel("mine", "https://mine", "mine.fra.localhost", 443, 0.0, port)
        self.ledger = Ledger(REST)
        self.ledger.opened([self.tunnel])
        self.network = Place()
        self.cluster: Any = type("Cluster", (), {"ca": None})
        self.listens = {"fra": "127.0.0.1:1"}  # nobody listens there
        self.hostile = HostileRecord(record, "fra-3")

    def ingress_nodes(self, tunnel: NamedTunnel, *, raw: bool) -> tuple[str, ...]:
        return ("fra",)

    def addresses(self) -> list[tuple[NamedTunnel, bool]]:
        return [(tunnel, True) for tunnel in self.ledger.open_now()]


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin("mine") as origin:
        thread = threading.Thread(target=origin.serve_forever, args=(0.01,))
        thread.start()
        yield origin
        origin.shutdown()
        thread.join()


@pytest.fixture
def stage(origin: Origin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr("portway_lab.chaos.visitors.visitor_context", lambda ca: None)
    monkeypatch.setattr("portway_lab.chaos.consistency.visitor_context", lambda ca: None)
    return FakeStage(origin.server_address[1], tmp_path / "record")


def visit_until(stage: Any, outcome: str) -> Visitors:
    with Visitors(stage, 1, lambda text: None) as visitors:
        eventually(lambda: visitors.outcomes[outcome] > 0)
    return visitors


def test_a_tunnel_that_answers_in_its_own_name_is_served(stage: Any) -> None:
    """No violation, and the gaps between its visits are measured."""
    visitors = visit_until(stage, "raw served")
    assert visitors.violations == []
    assert visitors.longest_gap["mine raw"] > 0
    assert consistency.not_served(stage) == []


def test_an_answer_in_anothers_name_is_a_violation(stage: Any, origin: Origin) -> None:
    """As if a raw port led to another tunnel's client; at the end it is not waited for to pass."""
    origin.name = "other"
    visitors = visit_until(stage, "raw foreign bytes")
    assert "mine (raw) at fra, open: mine was asked for" in visitors.violations[0]
    with pytest.raises(WrongBytes, match="mine was asked for"):
        consistency.not_served(stage)


def test_the_hostile_nodes_answer_is_a_violation_unless_it_may_answer(
    stage: Any, origin: Origin, tmp_path: Path
) -> None:
    """It lies, and the tunnel's client has placed the tunnel there: then the answer is counted. At the end it is wrong
    in any case, for the lies are over."""
    origin.name = NAME
    assert "is answered by the hostile node" in visit_until(stage, "raw answered by the hostile node").violations[0]
    writer = RecordWriter(tmp_path / "record")
    writer.placed(stage.tunnel.label)
    writer.lies()
    assert visit_until(stage, "raw answered by the hostile node").violations == []
    with pytest.raises(WrongBytes, match=NAME):
        consistency.not_served(stage)
    assert consistency.severed(stage) == (0, []), "it was placed there"


def test_while_only_the_hostile_node_lies_every_visit_is_served(stage: Any, origin: Origin) -> None:
    """Of tunnels that were never placed there: one that is not is named."""
    assert consistency.severed(stage) == (1, [])
    origin.server_close()
    made, wrong = consistency.severed(stage)
    assert made == 1
    [line] = wrong
    assert line.startswith("not served while only fra-3 lied: mine (raw) at fra: ")


def test_an_answer_after_the_end_is_a_violation(stage: Any) -> None:
    """Its client is gone, as far as the ledger knows, and something still answers in its name."""
    stage.ledger.ended(["mine"])
    stage.ledger.opened([NamedTunnel("tls", "https://tls", "tls.fra.localhost", 443, 0.0)])
    visitors = visit_until(stage, "closed: raw served")
    assert "after its client ended" in visitors.violations[0]
    assert "after its client ended" in consistency.still_answered(stage)[0]


def test_anothers_answer_at_a_port_that_rests_is_a_violation(stage: Any, origin: Origin) -> None:
    """Once it has rested, nobody asks any more."""
    origin.name = "other"
    stage.ledger.released(["mine"], time.monotonic())
    stage.ledger.ended(["mine"])
    assert "mine (raw) at fra, released" in consistency.still_answered(stage)[0]
    stage.ledger.released(["mine"], time.monotonic() - REST - 1.0)
    assert consistency.still_answered(stage) == []


def test_nobody_there_is_no_violation(stage: Any, origin: Origin) -> None:
    """Refused connections are counted, and are not served."""
    visit = visits.connect_raw("127.0.0.1", origin.server_address[1], 5.0)
    with visit:
        visits.ask(visit, stage.tunnel, Ask(10))
    origin.server_close()
    visitors = visit_until(stage, "raw ConnectionRefusedError")
    assert visitors.violations == []
    assert consistency.not_served(stage) == ["not served: mine (raw) at fra: ConnectionRefusedError"]

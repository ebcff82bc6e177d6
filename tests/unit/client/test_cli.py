"""portway.cli: what each command does with its options. What it does as a process is in tests/integration/client."""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from inspect import signature
from pathlib import Path

import pytest
from portway import cli, forward
from portway.cli import main, one_line
from portway.engine import engine_thread
from portway.engine.directory import Expected, Node
from portway.engine.survey import MeasuredNode, Survey, SurveyedNode
from portway.errors import (
    Attempt,
    AuthError,
    Error,
    QuotaError,
    TunnelLostError,
    UnreachableError,
)
from portway.tunnel import Tunnel
from portway_runtime import logs
from portway_runtime.endpoints import Endpoint

README = Path(__file__).resolve().parents[3] / "client" / "README.md"


def test_the_readme_shows_every_argument_of_forward() -> None:
    """In the signature, with its default, and in the table."""
    text = README.read_text()
    shown = text[text.index("portway.forward(port, *, ") :].partition("```")[0]
    parameters = signature(type(forward).__call__).parameters
    for name, parameter in list(parameters.items())[2:]:
        default = repr(parameter.default).replace("'", '"')
        assert f"{name}={default}" in shown
        assert f"\n| `{name}` |" in text


class Surveyed:
    """An engine whose survey is this."""

    def __init__(self, *measured: MeasuredNode) -> None:
        survey = Survey("registry.test:7400", tuple(one.node for one in measured), len(measured), b"ca")
        self._taken: Future[tuple[Survey, tuple[MeasuredNode, ...]]] = Future()
        self._taken.set_result((survey, measured))

    def submit(self, _: object) -> "Future[tuple[Survey, tuple[MeasuredNode, ...]]]":
        return self._taken


@pytest.mark.parametrize(
    ("variable", "arguments", "later"),
    [("", [], True), ("never", [], False), ("", ["--returns=never"], False), ("never", ["--returns=look=1"], True)],
)
def test_netcheck_heeds_when_tunnels_return(
    variable: str,
    arguments: list[str],
    later: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The node that a tunnel would go to later is named unless tunnels stay where they are."""

    def measured(name: str, expected: float, ms: float, took: float) -> MeasuredNode:
        node = Node(name, name, Endpoint("192.0.2.1", 443), f"{name}.test", "tunnels.test")
        return MeasuredNode(SurveyedNode(node, "ready", Expected(expected, False), 0.0, 0), ms, took)

    far, near = measured("fra-1", 80, 90.0, 0.2), measured("lon-1", 20, 12.0, 0.19)
    others = [measured(f"nrt-{number}", 250, 240.0, 0.49) for number in range(2)]
    monkeypatch.setattr(engine_thread, "running_engine", lambda: Surveyed(far, *others, near))
    monkeypatch.setattr(logs, "configure_command", lambda _: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("PORTWAY_RETURNS", variable)
    assert main(["netcheck", "--registry=registry.test:7400", "--token=pw_id_secret", *arguments]) == 0
    said = capsys.readouterr().out
    assert "picked: fra-1" in said
    assert ("later: lon-1 in lon-1" in said) is later


def test_attempts_become_one_line() -> None:
    """A message of several lines would be several entries in a log."""
    attempts = (Attempt("a", "1", "refused"), Attempt("b", "2", "silent"))
    assert one_line(UnreachableError("nobody", attempts)) == "nobody: a (1): refused; b (2): silent"
    assert one_line(AuthError("no")) == "no"


def test_every_option_reaches_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """And targets' own hosts go before --host."""
    asked = []

    class Stop(Error):
        pass

    def forward(port: int, **options: object) -> None:
        asked.append((port, options))
        raise Stop("that is enough")

    monkeypatch.setattr(cli, "forward", forward)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    named = {"--host": "db", "--registry": "a:1", "--token": "t", "--ca": "c", "--region": "r", "--timeout": "3.5"}
    named |= {"--strategy": "geoip", "--key": "k", "--returns": "never", "--proxy": "p"}
    arguments = ["--h2", "--unencrypted", "--proxy-protocol=v1", *(word for option in named.items() for word in option)]
    assert main(["forward", "5432", *arguments]) == 1
    assert main(["forward", "other:5432", *arguments]) == 1
    for (port, options), host in zip(asked, ("db", "other"), strict=True):
        assert callable(options.pop("tunnel_lost"))
        assert port == 5432
        assert options == {
            "h2_enabled": True,
            "unencrypted": True,
            "host": host,
            "registry": "a:1",
            "token": "t",
            "ca": "c",
            "region": "r",
            "strategy": "geoip",
            "key": "k",
            "returns": "never",
            "proxy": "p",
            "proxy_protocol": "v1",
            "process": False,
            "timeout": 3.5,
        }


@pytest.mark.parametrize("before", [True, False])
def test_proxy_headers_need_no_version(monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    """The target that follows the option is a target."""
    asked = []

    def forward(port: int, **options: object) -> None:
        asked.append((port, options["proxy_protocol"]))
        raise AuthError("that is enough")

    monkeypatch.setattr(cli, "forward", forward)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main(["forward", "--proxy-protocol", "5432"] if before else ["forward", "5432", "--proxy-protocol"]) == 4
    assert main(["forward", "--proxy-protocol=v1", "5432"]) == 4
    assert main(["forward", "5432"]) == 4
    assert asked == [(5432, "v2"), (5432, "v1"), (5432, None)]


class Script:
    """In place of `forward`: what happens while the tunnel of each port is being opened. An int is the port of a tunnel
    that the quota takes; an exception is raised."""

    def __init__(self, steps: Mapping[int, Sequence[int | BaseException]]) -> None:
        self._steps = steps
        self._told: dict[int, Callable[[TunnelLostError], None]] = {}

    @contextmanager
    def __call__(self, port: int, *, tunnel_lost: Callable[[TunnelLostError], None], **_: object) -> Iterator[Tunnel]:
        self._told[port] = tunnel_lost
        for step in self._steps.get(port, ()):
            if isinstance(step, BaseException):
                raise step
            self._told[step](TunnelLostError(f"https://a{step}.test", QuotaError("no more")))
        yield Tunnel(f"a{port}.test", 443)


REFUSED = QuotaError("no more")
SIGNAL = cli._Ended()


def gone(port: int) -> str:
    return f"portway: the tunnel to https://a{port}.test is gone for good: no more"


def not_forwarded(port: int) -> str:
    return f"portway: {port} is not forwarded: no more"


@pytest.mark.parametrize(
    ("steps", "said", "code"),
    [
        pytest.param({8002: [8001], 8003: [SIGNAL]}, [gone(8001)], 7, id="lost while others are opened"),
        pytest.param({8003: [8001, 8002, 8003]}, [gone(8001), gone(8002), gone(8003)], 7, id="all lost together"),
        pytest.param({8002: [8001, REFUSED]}, [gone(8001), not_forwarded(8002)], 7, id="none left, and refused"),
        pytest.param({8002: [REFUSED], 8003: [SIGNAL]}, [not_forwarded(8002)], 5, id="refused before a signal"),
        pytest.param(
            {8002: [REFUSED], 8003: [8001, 8003]}, [not_forwarded(8002), gone(8001), gone(8003)], 7, id="both"
        ),
        pytest.param({8001: [REFUSED]}, [not_forwarded(8001)], 5, id="the first is refused"),
        pytest.param({8003: [SIGNAL]}, [], 0, id="a signal alone"),
    ],
)
def test_what_the_quota_takes_is_said_once(
    steps: dict[int, list[int | BaseException]],
    said: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whenever it is lost or refused, and however the command ends."""
    monkeypatch.setattr(cli, "forward", Script(steps))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main(["forward", "8001", "8002", "8003", "--key", ""]) == code
    assert capsys.readouterr().err.splitlines() == said


def test_a_reader_that_has_gone_ends_the_command_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`portway forward 8001 8002 | head -1`: the code of SIGPIPE, nothing on standard error, and nothing left in the
    buffer that could fail when Python ends. The tunnels are closed."""
    opened: list[int] = []

    @contextmanager
    def forward(port: int, **_: object) -> Iterator[Tunnel]:
        opened.append(port)
        yield Tunnel(f"a{port}.test", 443)
        raise AssertionError("left without an error")

    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr(cli, "forward", forward)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with open(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["forward", "8001", "8002", "--key", ""]) == 141
    assert opened == [8001]
    assert capsys.readouterr().err == ""


def test_output_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On one line, with the reason; nothing is left in the buffer here either."""
    monkeypatch.setattr(cli, "forward", Script({}))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with open("/dev/full", "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["forward", "8001", "--key", ""]) == 1
    assert capsys.readouterr().err == "portway: standard output cannot be written: No space left on device\n"

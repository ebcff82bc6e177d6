"""What a client says of the nodes that it raced, and how it takes one by location alone."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable

import grpc
import portway
import pytest
from portway.engine import reporter as reporting
from portway_proto.v1.discovery_pb2 import STRATEGY_GEOIP, STRATEGY_LATENCY
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.fake_registry import FakeRegistry
from portway_testkit.waiting import PATIENCE

pytestmark = [pytest.mark.shares_sockets, pytest.mark.usefixtures("environment")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause before a report."""
    monkeypatch.setattr(reporting, "REPORT_AFTER", 0.0)
    monkeypatch.setattr(reporting, "REPORT_WITHIN", 0.0)


@pytest.mark.usefixtures("at_once")
def test_what_the_race_measured_is_reported(registry: FakeRegistry) -> None:
    """Once, by the token that the tunnel is of: the winner's round trip, which on loopback is short."""
    with portway.forward(8000):
        registry.wait(lambda: len(registry.reports) == 1)
        (trip,) = registry.reports[0].round_trips
        assert (trip.node, trip.at_least) == ("one", False)
        assert 0 < trip.ms < 1000
        with portway.forward(8001):
            pass
    assert len(registry.reports) == 1


@pytest.mark.usefixtures("at_once")
def test_a_node_that_was_given_up_is_reported_to_be_no_nearer(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode
) -> None:
    """It was first in the order, said nothing, and had half of the time that it was waited for to do one round trip."""
    node.silent = True
    registry.nodes = [node, second_node]
    with portway.forward(8000):
        registry.wait(lambda: len(registry.reports) == 1)
    told = {trip.node: trip for trip in registry.reports[0].round_trips}
    assert (told["two"].at_least, told["one"].at_least) == (False, True)
    assert told["one"].ms > told["two"].ms


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED])
def test_a_registry_that_wants_no_reports_is_no_trouble(
    registry: FakeRegistry, node: FakeNode, caplog: pytest.LogCaptureFixture, code: grpc.StatusCode
) -> None:
    """An older one, or one that is asked too much: nothing is logged, nothing tried again, the tunnel stays."""
    with caplog.at_level(logging.INFO, "portway"):
        with portway.forward(8000):
            registry.refuse = (code, "no reports")
            registry.wait(lambda: len(registry.reports) == 1)
            with portway.forward(8001):
                assert len(node.tunnels) == 2
    assert len(registry.reports) == 1
    assert caplog.records == []


def netcheck(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "portway", "netcheck", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


REPORTS_AND_ENDS = """
import sys, portway
from portway.engine import reporter as reporting
reporting.REPORT_AFTER = reporting.REPORT_WITHIN = 0.0
with portway.forward(8000):
    print("open", flush=True)
    sys.stdin.readline()
"""


def test_a_program_may_end_in_the_middle_of_a_report(
    registry: FakeRegistry, node: FakeNode, start_python: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """It ends at once and in order, and its tunnel with it."""
    registry.answers_reports.clear()
    program = start_python("-c", REPORTS_AND_ENDS)
    try:
        registry.wait(lambda: len(registry.reports) == 1)
        _, errors = program.communicate("\n", timeout=PATIENCE)
    finally:
        registry.answers_reports.set()
    assert (program.returncode, errors) == (0, "")
    node.wait(lambda: not node.tunnels)


def test_location_alone_decides_if_asked_for(registry: FakeRegistry, node: FakeNode, second_node: FakeNode) -> None:
    """The registry is told; the first that it names is taken, and no other dialled."""
    registry.nodes = [second_node, node]
    with portway.forward(8000, strategy="geoip"):
        assert second_node.count("hello") == 1
        with portway.forward(8001):
            pass
    assert registry.strategies == [STRATEGY_GEOIP, STRATEGY_LATENCY]


def test_the_first_by_location_is_not_waited_for_once_it_has_failed(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode
) -> None:
    """The next one is taken."""
    node.stop()
    registry.nodes = [node, second_node]
    with portway.forward(8000, strategy="geoip"):
        assert second_node.count("hello") == 1


@pytest.mark.parametrize("silent", [False, True])
def test_netcheck_foresees_who_is_taken(
    registry: FakeRegistry, node: FakeNode, second_node: FakeNode, environment: dict[str, str], silent: bool
) -> None:
    """The first node, or the second when that one does not answer."""
    registry.nodes = [node, second_node]
    node.silent = silent
    second_node.handshake_delay = 0.0 if silent else 1.0  # it would win by 25 ms
    done = netcheck(environment)
    assert (done.returncode, done.stderr) == (0, "")
    picked = done.stdout.splitlines()[-1]
    assert picked.startswith("picked: two in test" if silent else "picked: one in test")
    assert ("no connection within 3 s" in done.stdout) is silent


def test_netcheck_fails_as_forward_does(registry: FakeRegistry, node: FakeNode, environment: dict[str, str]) -> None:
    """With its exit codes, and one line on standard error: no node, no registry, no token."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return netcheck(environment, *arguments)

    node.stop()
    done = run("--json")
    assert done.returncode == 6
    assert done.stderr.startswith("portway: no relay node that takes clients could be reached: one (127.0.0.1:")
    assert '"picked": null' in done.stdout
    registry.refuse = (grpc.StatusCode.UNAUTHENTICATED, "who are you?")
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (4, "", "portway: who are you?\n")
    done = run("--registry", "127.0.0.1:1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (6, "", 1)

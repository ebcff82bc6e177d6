"""Namespaces that are far apart: how late packets are, what a cut loses, and that nothing stays."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_lab.cluster import delay_network
from portway_lab.cluster.delay_network import why_not
from portway_lab.cluster.network import Network, Place, round_trip, start_network
from portway_lab.cluster.processes import Processes
from portway_testkit.waiting import eventually

NEAR = Place("near", "here", access=2.0)
MIDDLE = Place("middle", "here", access=4.0)
FAR = Place("far", "there", access=0.0)
PLACES = (NEAR, MIDDLE, FAR)
DISTANCES = {("here", "there"): 48.0}
NOBODY = 65_534
# A round trip is never shorter; on a machine that does other things too it is late by a few time slices.
SLACK_MS = 40.0
LONGER_THAN_ANY_ROUND_TRIP = 0.5


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    if reason := why_not():
        pytest.skip(reason)
    with Processes(tmp_path) as processes:
        yield processes


@pytest.fixture
def network(processes: Processes) -> Network:
    return start_network(processes, PLACES, DISTANCES)


@pytest.fixture
def server(network: Network) -> Iterator[socket.socket]:
    """Listens in the far place; its kernel answers handshakes."""
    with network.inside("far"), socket.create_server((network.address("far"), 0)) as server:
        yield server


def dial(network: Network, place: str, server: socket.socket, timeout: float = 10.0) -> float:
    """Milliseconds until a connection from there stood. Raises TimeoutError."""
    with network.inside(place), socket.socket() as visitor:
        visitor.settimeout(timeout)
        began = time.monotonic()
        visitor.connect(server.getsockname())
        return (time.monotonic() - began) * 1000


def reaches(network: Network, place: str, server: socket.socket) -> bool:
    try:
        dial(network, place, server, LONGER_THAN_ANY_ROUND_TRIP)
    except TimeoutError:
        return False
    return True


def namespaces(owner: int) -> list[str]:
    """Those that a network has now."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return re.findall(rf"portway-{owner}-\S+", listed)


@pytest.mark.parametrize("place", [NEAR, MIDDLE])
def test_a_handshake_takes_a_round_trip(network: Network, server: socket.socket, place: Place) -> None:
    """None is earlier than the places are apart, and the best hardly later, of as many as a busy machine needs."""
    expected = round_trip(place, FAR, DISTANCES)
    took = [dial(network, place.name, server)]

    def hardly_later() -> bool:
        took.append(dial(network, place.name, server))
        return min(took) < expected + SLACK_MS

    eventually(hardly_later, shown=lambda: took)
    assert min(took) >= expected


def test_a_cut_loses_everything_until_it_is_mended(network: Network, server: socket.socket) -> None:
    """Nobody is told: packets are dropped, between these two places alone."""
    network.cut("near", "far")
    eventually(lambda: not reaches(network, "near", server))
    dial(network, "middle", server)
    network.mend("near", "far")
    eventually(lambda: reaches(network, "near", server))


def test_one_direction_can_be_cut(network: Network, server: socket.socket) -> None:
    """What is sent arrives and the answers do not."""
    network.cut("far", "near", both_ways=False)
    eventually(lambda: not reaches(network, "near", server))
    with network.inside("near"), socket.socket() as visitor:
        visitor.setblocking(False)
        visitor.connect_ex(server.getsockname())
        # The SYN is there: the kernel lists a half-open connection in the far place.
        eventually(lambda: "SYN-RECV" in sockets_of(network, "far"))
    network.mend("far", "near", both_ways=False)
    eventually(lambda: reaches(network, "near", server))


def sockets_of(network: Network, place: str) -> str:
    command = [*network.prefix(place), "ss", "--tcp", "--all", "--numeric"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_namespaces_go_with_it(processes: Processes, number: int) -> None:
    """At once on SIGTERM; after SIGKILL with the start of the next network."""
    network = start_network(processes, PLACES, DISTANCES)
    pid = int((processes.folder / "network.pid").read_text())
    assert sorted(namespaces(pid)) == sorted(map(network.namespace, network.places))
    os.kill(pid, number)
    eventually(processes.forget_ended)
    if number == signal.SIGKILL:
        (processes.folder / "network.control").unlink()
        start_network(processes, PLACES, DISTANCES)
    assert namespaces(pid) == []


def test_two_networks_do_not_meet(processes: Processes, tmp_path: Path) -> None:
    """They have the same addresses, and a cut of one is not the other's."""
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    first = start_network(processes, PLACES, DISTANCES)
    with Processes(other_folder) as others:
        second = start_network(others, PLACES, DISTANCES)
        first.cut("near", "far")
        with second.inside("far"), socket.create_server((second.address("far"), 0)) as server:
            dial(second, "near", server)


def test_places_may_have_addresses_of_their_own_which_programs_find(processes: Processes) -> None:
    """By the default route, as on a machine of the Internet; what is sent to no place is lost."""
    places = (Place("near", "here", address="46.101.100.1"), Place("far", "there", address="3.208.0.1"))
    network = start_network(processes, places, DISTANCES, default_routes=True)
    with network.inside("near"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("198.41.0.4", 53))
        assert probe.getsockname()[0] == "46.101.100.1"
    with network.inside("far"), socket.create_server(("3.208.0.1", 0)) as server:
        dial(network, "near", server)


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason says what is needed, before anything is tried."""
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    assert "need root" in str(why_not())


def test_a_machine_without_tun_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason names the missing file."""
    if reason := why_not():
        pytest.skip(reason)
    monkeypatch.setattr(delay_network, "TUN_DEVICE", tmp_path / "tun")
    assert f"TUN devices: {tmp_path / 'tun'}" in str(why_not())

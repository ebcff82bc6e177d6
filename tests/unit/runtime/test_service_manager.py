"""What the service manager is told, and where."""

import logging
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from portway_runtime import service_manager as module
from portway_runtime.service_manager import ServiceManager, own_unit
from portway_testkit.processes.service_manager import FakeServiceManager


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "notify") if request.param == "path" else f"@portway-test/{tmp_path}"[:100]


def test_it_is_told_at_a_path_or_an_abstract_name(address: str) -> None:
    """Each state in a datagram of its own; a reload with the time at which it began, as systemd demands."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    with FakeServiceManager(address) as fake:
        manager = ServiceManager({"NOTIFY_SOCKET": address})
        manager.ready()
        with manager.reloading():
            assert fake.states() == ["READY=1", "RELOADING=1"]
        manager.stopping()
        with manager.reloading():
            pass
        assert fake.states() == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
    name, _, began = fake.told[1][1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(began) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert [lines for lines in fake.told if len(lines) > 1] == [fake.told[1]]


def test_without_one_nothing_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Nor logged."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    for manager in (ServiceManager(), ServiceManager({"NOTIFY_SOCKET": ""})):
        manager.ready()
        manager.stopping()
    assert not caplog.records


@pytest.mark.parametrize("wrong", ["/nowhere/notify", "@portway-test-nobody", "vsock:2:1", "/" + "x" * 200])
def test_one_that_cannot_be_told_is_logged(wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    """The server goes on."""
    with caplog.at_level(logging.WARNING):
        ServiceManager({"NOTIFY_SOCKET": wrong}).ready()
    (record,) = caplog.records
    assert record.getMessage() == "the service manager is not told"
    assert record.__dict__["socket"] == wrong
    assert record.__dict__["reason"]


def test_one_that_reads_nothing_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its socket is full."""
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    address = str(tmp_path / "notify")
    with FakeServiceManager(address), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood:
        flood.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                flood.sendto(b"x", address)
        ServiceManager({"NOTIFY_SOCKET": address}).ready()
    assert "the service manager is not told" in caplog.text


@pytest.mark.parametrize(
    ("groups", "unit"),
    [
        ("0::/system.slice/portway-server.service\n", "portway-server.service"),
        ("0::/system.slice/portway-server.service/payload\n", "portway-server.service"),
        (r"0::/system.slice/system-portway\x2drelay.slice/portway-relay@2.service", "portway-relay@2.service"),
        ("0::/machine.slice/fra.scope/payload/system.slice/portway-relay.service", "portway-relay.service"),
        (
            "12:pids:/system.slice/x.service\n9:name=systemd:/system.slice/portway-relay.service",
            "portway-relay.service",
        ),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/portway.service", ""),  # systemctl needs --user
        ("0::/system.slice/docker-0123.scope", ""),
        ("0::/kubepods.slice/kubepods-pod1.slice", ""),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_unit_of_a_process_is_known_by_its_group(groups: str, unit: str, tmp_path: Path) -> None:
    """As the kernel says it, in both versions of groups, below containers too; without a unit it is nothing."""
    (tmp_path / "cgroup").write_text(groups)
    assert own_unit(tmp_path / "cgroup") == unit
    assert own_unit(tmp_path / "missing") == ""

"""The memory that a process has, and may have."""

import os
import sys
from pathlib import Path

import pytest
from portway_relay.process_memory import available, resident, return_freed

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has /proc")
def test_what_is_resident_is_counted() -> None:
    """More than an interpreter takes, and less than the machine has."""
    assert 8 * 1024 * 1024 < resident() < MACHINE
    return_freed()


@pytest.mark.parametrize(
    ("limits", "expected"), [((1000, 2000), 1000), (("max", 2000), 2000), (("max", "max"), MACHINE)]
)
def test_the_smallest_limit_of_its_groups_counts(tmp_path: Path, limits: tuple[object, object], expected: int) -> None:
    """That of a unit, or of a slice around it; without any there is the machine's memory."""
    unit = tmp_path / "groups" / "system.slice" / "relay.service"
    unit.mkdir(parents=True)
    (unit / "memory.max").write_text(f"{limits[0]}\n")
    (unit.parent / "memory.max").write_text(f"{limits[1]}\n")
    own = tmp_path / "cgroup"
    own.write_text("0::/system.slice/relay.service\n")
    assert available(own, tmp_path / "groups") == expected


def test_without_groups_there_is_the_machine(tmp_path: Path) -> None:
    """Also where they are of version 1."""
    assert available(tmp_path / "none", tmp_path) == MACHINE
    (tmp_path / "cgroup").write_text("4:memory:/user\n")
    assert available(tmp_path / "cgroup", tmp_path) == MACHINE

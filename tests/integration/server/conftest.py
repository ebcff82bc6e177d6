"""Two machines with addresses of their own, and a CA."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from portway_testkit.clusters.server_machines import DOMAIN, ServerMachine, program
from portway_testkit.processes.machines import two_machines


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[ServerMachine, ServerMachine]]:
    """Neither is set up. The domain leads both to the first one."""
    ca = trustme.CA()
    with two_machines() as pair:
        for machine in pair:
            machine.set_file("hosts", f"127.0.0.1 localhost\n{pair[0].address} {DOMAIN}\n")
        first, second = (ServerMachine(one, tmp_path / one.name, ca) for one in pair)
        yield first, second


@pytest.fixture
def first(machines: tuple[ServerMachine, ServerMachine]) -> ServerMachine:
    """The first machine of a cluster, set up and not running."""
    made = machines[0]
    done = made.machine.run(program("portway-server"), "init", "--domain", DOMAIN, *made.by_hand("fra"))
    assert done.returncode == 0, done.stderr
    return made

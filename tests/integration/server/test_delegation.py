"""The delegation, as it is seen at the parent zone's server."""

import json
from pathlib import Path

import pytest
from portway_testkit.clusters.server_machines import DOMAIN, ServerMachine, program

pytestmark = pytest.mark.timeout(120)

Machines = tuple[ServerMachine, ServerMachine]
LOOK = """
import asyncio, dataclasses, json, sys
from portway_registry.doctor.delegation import ask_above
from portway_registry.doctor.resolver import Resolver
from portway_server.delegation import judge
seen = asyncio.run(ask_above(sys.argv[1], Resolver()))
print(json.dumps([*dataclasses.asdict(seen).values(), judge(sys.argv[1], sys.argv[2:], seen).good]))
"""


def test_the_parent_s_server_is_asked_and_not_a_cache(machines: Machines, tmp_path: Path) -> None:
    """Before the records are there and after; with a resolver that is not there, and without one."""
    one, internet = (each.machine for each in machines)
    one.set_file("resolv.conf", f"nameserver {internet.address}\n")
    look = (program("python"), "-c", LOOK, DOMAIN, one.address)
    switch = tmp_path / "delegated"
    answering = (program("python"), "-m", "portway_testkit.fakes.parent_zone")
    with internet.program(
        *answering, internet.address, "example.com", DOMAIN, one.address, switch, log=tmp_path / "dns"
    ) as dns:
        assert dns.line() == "answers"
        assert json.loads(one.run(*look).stdout) == ["example.com", "", [], False]
        switch.touch()
        servers = [[f"ns1.{DOMAIN}", [one.address]]]
        assert json.loads(one.run(*look).stdout) == ["example.com", "", servers, True]
        assert json.loads(one.run(*look[:-1], "45.76.9.9").stdout) == ["example.com", "", servers, False]
    for configuration in (f"nameserver {internet.address}\n", ""):
        one.set_file("resolv.conf", configuration)
        _, failure, _, good = json.loads(one.run(*look).stdout)
        assert not good
        assert "parent zone is not found" in failure

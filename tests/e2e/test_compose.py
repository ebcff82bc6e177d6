"""deploy/compose as it is run on three machines, without Docker: its commands as processes, in three places.

Each service has the command, environment, user and capabilities of the file, and its own folders where the file mounts
them; its health is what the file's health check says.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from portway_lab.cluster.delay_network import why_not
from portway_lab.cluster.network import Network, Place, start_network
from portway_lab.cluster.processes import Process, Processes, clean_environment
from portway_lab.cluster.regions import DISTANCES
from portway_testkit.processes.running_program import needed
from portway_testkit.waiting import eventually

_COMPOSE = Path(__file__).resolve().parents[2] / "deploy/compose"
_PROGRAMS = Path(sys.executable).parent
_REGIONS = ("fra", "iad", "nrt")
_DOMAIN = "tun.example.com"
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_WITHIN = 60.0
# A tenth of the real ones: what is shown does not depend on them, and takes a tenth of the time.
_NEAR = {pair: milliseconds / 10 for pair, milliseconds in DISTANCES.items()}

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]


@dataclass(slots=True)
class Machine:
    """A folder that `prepare` made, as Docker would run it in a place."""

    folder: Path
    processes: Processes
    prefix: tuple[str, ...]
    running: dict[str, Process] = field(default_factory=dict)

    def up(self, name: str) -> None:
        service = self._service(name)
        words = [*service["entrypoint"], *service["command"]]
        command = [needed(words[0]) if words[0] == "etcd" else _PROGRAMS / words[0], *words[1:]]
        environment = {key: str(value) for key, value in service.get("environment", {}).items()}
        self.running[name] = self.processes.start(
            f"{self.folder.name}-{name}",
            [*self.prefix, *self._account(service, command[0]), *command],
            environment=environment,
        )

    def wait_healthy(self, name: str) -> None:
        kind, *words = self._service(name)["healthcheck"]["test"]
        assert kind == "CMD"
        check = [*self.prefix, needed(words[0]), *words[1:]]

        def healthy() -> bool:
            done = subprocess.run(check, capture_output=True, check=False, env=clean_environment())
            return done.returncode == 0

        process = self.running[name]
        self.processes.wait_until(healthy, process, "is not healthy by its own check", _WITHIN)

    def switch_off(self) -> None:
        for process in self.running.values():
            process.popen.kill()
            process.popen.wait()
        self.processes.forget_ended()

    def _service(self, name: str) -> dict[str, Any]:
        """With variables and mounts put in, as Docker does."""
        variables = dict(line.split("=", 1) for line in (self.folder / ".env").read_text().splitlines())
        text = _VARIABLE.sub(
            lambda match: variables.get(match[1]) or match[2] or pytest.fail(f"{match[1]} is not set"),
            (self.folder / "compose.yaml").read_text(),
        )
        service: dict[str, Any] = yaml.safe_load(text)["services"][name]
        return {key: self._mounted(value, service["volumes"]) for key, value in service.items()}

    def _mounted(self, value: Any, volumes: list[str]) -> Any:
        if isinstance(value, list):
            return [self._mounted(one, volumes) for one in value]
        if isinstance(value, Mapping):
            return {key: self._mounted(one, volumes) for key, one in value.items()}
        if isinstance(value, str):
            for volume in volumes:
                source, target, *_ = volume.split(":")
                value = re.sub(rf"(?<![\w./]){re.escape(target)}/", f"{self.folder / source}/", value)
        return value

    @staticmethod
    def _account(service: Mapping[str, Any], program: str | Path) -> list[str]:
        """What takes the rights away that the file takes away."""
        kept = "".join(f",+{name.lower()}" for name in service.get("cap_add", []))
        limited = [needed("setpriv"), f"--bounding-set=-all{kept}", "--inh-caps=-all", "--no-new-privs"]
        user, group = service["user"].split(":")
        account = [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        # A checkout in a folder of root's own has programs that no other user can run.
        if subprocess.run([*limited, *account, program, "--help"], capture_output=True, check=False).returncode == 0:
            return [*limited, *account]
        return []


def _machines(processes: Processes, network: Network) -> list[Machine]:
    subprocess.run(
        [_COMPOSE / "prepare", _DOMAIN, *(f"{region}={network.address(region)}" for region in _REGIONS)],
        cwd=processes.folder,
        env={**os.environ, "PORTWAY_ADMIN": str(_PROGRAMS / "portway-admin")},
        check=True,
        capture_output=True,
    )
    for region in _REGIONS:
        (processes.folder / region).chmod(0o711)  # a container sees what is mounted, and no folder above it
    return [Machine(processes.folder / region, processes, network.prefix(region)) for region in _REGIONS]


def test_three_machines_are_a_mesh_that_outlives_one_of_them() -> None:
    """From `prepare` to a visit at each node, and at the two that are left."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="pw-") as name, Processes(Path(name)) as processes:
        Path(name).chmod(0o755)
        client = Place("client", "iad", access=4.0)
        network = start_network(processes, (*(Place(region, region) for region in _REGIONS), client), _NEAR)
        machines = _machines(processes, network)
        for service in ("etcd", "registry"):
            for machine in machines:
                machine.up(service)
            for machine in machines:
                machine.wait_healthy(service)
        (admin_token,) = Path(name).glob("*/registry/admin-token")
        admin = Admin(network, admin_token, Path(name, "fra/registry/ca.crt"))
        for machine in machines:
            invitation = admin("node", "invite", "--region", machine.folder.name)
            (machine.folder / "relay/invitation").write_text(invitation)
            machine.up("relay")
        for machine in machines:
            machine.wait_healthy("relay")
        url = admin.tunnel(processes)
        for region in _REGIONS:
            eventually(lambda region=region: admin.visit(url, region) == "hello\n")  # type: ignore[misc]
        machines[0].switch_off()
        for region in _REGIONS[1:]:
            eventually(lambda region=region: admin.visit(url, region) == "hello\n")  # type: ignore[misc]
        # Two of three etcd members store, once they have elected a leader: the machine may have had it.
        eventually(lambda: admin.run("token", "create", "--tenant", "bob").returncode == 0)


@dataclass(slots=True)
class Admin:
    """Somebody at the client's place, with the first admin token."""

    network: Network
    token: Path
    ca: Path

    def __call__(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        addresses = ",".join(f"{self.network.address(region)}:7400" for region in reversed(_REGIONS))
        options: list[str | Path] = ["--registry", addresses, "--ca", self.ca, "--token-file", self.token]
        command: list[str | Path] = [*self.network.prefix("client"), _PROGRAMS / "portway-admin", *options, *words]
        environment = clean_environment()
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, env=environment)

    def tunnel(self, processes: Processes) -> str:
        """A page of one line behind a tunnel; its URL."""
        page = processes.folder / "page"
        page.mkdir()
        (page / "index.html").write_text("hello\n")
        serve: list[str | Path] = ["-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory", page]
        processes.start("page", (*self.network.prefix("client"), sys.executable, *serve))
        environment = {
            "PORTWAY_REGISTRY": f"{self.network.address('iad')}:7400,{self.network.address('nrt')}:7400",
            "PORTWAY_TOKEN": self("token", "create", "--tenant", "alice").strip(),
            "PORTWAY_CA": str(self.ca),
        }
        words: list[str | Path] = [*self.network.prefix("client"), _PROGRAMS / "portway", "forward", "8000"]
        forward = processes.start("forward", words, environment=environment)

        def url() -> re.Match[str] | None:
            return re.search(r"^https://\S+$", forward.log.read_text(), re.MULTILINE)

        processes.wait_until(url, forward, "printed no URL", _WITHIN)
        found = url()
        assert found is not None
        return found[0]

    def visit(self, url: str, region: str) -> str:
        """What a visitor gets at the node of that region; empty when there is no answer."""
        host = url.removeprefix("https://")
        command = [*self.network.prefix("client"), needed("curl"), "--silent", "--max-time", "10", "--noproxy", "*"]
        command += ["--cacert", str(self.ca), "--resolve", f"{host}:443:{self.network.address(region)}", url]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

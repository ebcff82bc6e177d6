"""The handbook's pages for operators and clients, followed line by line with a cluster of this machine."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from portway_lab.checkout import ROOT
from portway_lab.cluster.local_servers import ROLE, start_postgres, start_sshd
from portway_lab.cluster.processes import Processes
from portway_lab.handbook.pages import blocks, pages
from portway_lab.handbook.session import Session
from portway_testkit.processes.ports import free_port, wait_listening
from portway_testkit.processes.running_program import needed

_PROGRAMS = Path(sys.executable).parent
_FOLLOWED = [page for page in pages() if any(block.runs for block in blocks(page))]
_DEMO_WITHIN = 60.0

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def demo() -> Iterator[dict[str, str]]:
    """What `scripts/demo --env` says to clients, and the first admin token."""
    with tempfile.TemporaryDirectory(prefix="pw-") as folder:
        file = Path(folder, "env")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTWAY_")}
        with subprocess.Popen(
            [ROOT / "scripts/demo", "--env", file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env={**kept, "TMPDIR": folder},
        ) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline().startswith("ready"), "the demo ended before it was ready"
                lines = file.read_text().splitlines()
                exports = dict(shlex.split(line)[1].split("=", 1) for line in lines)
                token = Path(exports["PORTWAY_DEMO_DIR"], "admin-token").read_text().strip()
                yield exports | {"PORTWAY_ADMIN_TOKEN": token}
            finally:
                process.terminate()
                process.wait(_DEMO_WITHIN)


@pytest.fixture
def surroundings() -> Iterator[Callable[[Path, Path, Path], dict[str, int]]]:
    """What a page takes for granted on its machine: it starts that, and returns the ports for the usual ones."""
    with ExitStack() as stack:

        def start(page: Path, home: Path, programs: Path) -> dict[str, int]:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pw-")))
            processes = stack.enter_context(Processes(logs))
            if page.name == "ssh.md":
                server = start_sshd(processes)
                lines = [setting.replace("=", " ", 1) for setting in server.settings()]
                (home / "ssh_config").write_text("\n".join(lines) + "\n")
                for name in ("ssh", "scp"):
                    # They look for their settings in the home of the user's account, whatever HOME says.
                    _program(programs / name, f'exec {needed(name)} -F {home}/ssh_config "$@"')
                return {"22": server.port}
            if page.name == "postgresql.md":
                data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pw-")))
                _program(programs / "psql", f'PGUSER={ROLE} PGDATABASE=postgres exec {needed("psql")} "$@"')
                return {"5432": start_postgres(processes, data)}
            if page.name == "proxies.md":
                port = free_port()
                (logs / "tinyproxy.conf").write_text(f"Port {port}\nListen 127.0.0.1\nLogLevel Error\n")
                processes.start("tinyproxy", [needed("tinyproxy"), "-d", "-c", logs / "tinyproxy.conf"])
                wait_listening(port, processes.check_alive)
                return {"3128": port}
            if page.name == "kubernetes.md":
                (programs / "helm").symlink_to(needed("helm"))
            return {}

        yield start


def _program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("page", _FOLLOWED, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_can_be_followed(
    page: Path,
    demo: dict[str, str],
    surroundings: Callable[[Path, Path, Path], dict[str, int]],
    tmp_path: Path,
) -> None:
    """Each of its commands succeeds, in order, and prints what the page says."""
    home, programs, folder = tmp_path / "home", tmp_path / "programs", tmp_path / "folder"
    for each in (home / ".jupyter", programs, folder):
        each.mkdir(parents=True)
    (home / ".jupyter/jupyter_server_config.json").write_text(json.dumps({"ServerApp": {"allow_root": True}}))
    ports = surroundings(page, home, programs)
    environment = {
        "PATH": f"{programs}:{_PROGRAMS}:{os.environ['PATH']}",
        "HOME": str(home),
        "USER": "root" if os.getuid() == 0 else os.environ.get("USER", ""),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # What a visitor's machine trusts anyway, where the region's certificate is a public CA's.
        "CURL_CA_BUNDLE": demo["PORTWAY_CA"],
        "SSL_CERT_FILE": demo["PORTWAY_CA"],
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": demo["PORTWAY_CA"],
        **demo,
    }
    with Session(folder, environment, ports) as session:
        session.follow(blocks(page))

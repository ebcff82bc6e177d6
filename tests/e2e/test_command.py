"""The commands `portway` and `portway-admin`, as their users run them against a cluster of real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from portway_lab.cluster.portway import Cluster
from portway_testkit.processes.ports import LOOPBACK, free_port
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import eventually

PROGRAMS = Path(sys.executable).parent
NEIGHBOUR = "127.0.0.2"
PATIENCE = 40.0

pytestmark = pytest.mark.timeout(180)

Forward = Callable[..., RunningProgram]


class Admin:
    """`portway-admin` at a shell that is set up for the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PORTWAY_REGISTRY": cluster.registry,
            "PORTWAY_CA": str(cluster.ca),
            "PORTWAY_ADMIN_TOKEN": cluster.admin_token_file.read_text().strip(),
        }

    def command(self, *arguments: str) -> list[str | Path]:
        return [PROGRAMS / "portway-admin", *arguments]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=self.environment | variables,
        )

    def printed(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def hosts(self) -> list[str]:
        """Of all tunnels that are open."""
        listed: dict[str, list[dict[str, Any]]] = json.loads(self.printed("tunnels", "list", "--json"))
        return [tunnel["host"] for tunnel in listed["tunnels"]]

    def new_token(self, *options: str) -> str:
        return self.printed("token", "create", "--tenant", "e2e", *options).strip()


@pytest.fixture
def admin(cluster: Cluster) -> Admin:
    return Admin(cluster)


@pytest.fixture
def forward(client_environment: dict[str, str], tmp_path: Path) -> Iterator[Forward]:
    """Starts `portway forward ARGUMENTS`; variables that are None are not set."""
    with ExitStack() as running:

        def start(*arguments: object, **variables: str | None) -> RunningProgram:
            environment = {name: value for name, value in (client_environment | variables).items() if value is not None}
            command = [str(PROGRAMS / "portway"), "forward", *map(str, arguments)]
            return running.enter_context(RunningProgram(command, environment, tmp_path / "portway.log"))

        yield start


@pytest.fixture(scope="module")
def origin() -> Iterator[HttpOrigin]:
    with HttpOrigin("a page behind a tunnel") as origin:
        yield origin


def curl(cluster: Cluster, url: str) -> str:
    command = [needed("curl"), "--silent", "--show-error", "--fail", "--cacert", str(cluster.ca), url]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout.strip()


def host_of(url: str) -> str:
    found = re.fullmatch(r"https://([a-z2-7]{16}\.fra\.localhost):\d+", url)
    assert found, url
    return found[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_forward_prints_a_url_that_works_until_it_is_told_to_end(
    cluster: Cluster, admin: Admin, forward: Forward, origin: HttpOrigin, number: int
) -> None:
    """The printed URL serves the local page and is in the admin's list; a signal ends the command with 0 and without a
    word, and takes the tunnel off the list."""
    command = forward(origin.port)
    url = command.line()
    assert curl(cluster, url) == origin.name
    eventually(lambda: admin.hosts() == [host_of(url)])
    assert command.stop(number) == 0
    assert command.errors() == ""
    eventually(lambda: not admin.hosts())
    with pytest.raises(subprocess.CalledProcessError):
        curl(cluster, url)


def test_forward_reaches_a_neighbour(cluster: Cluster, forward: Forward) -> None:
    """HOST:PORT forwards a port of another host, which is not this one's."""
    with HttpOrigin("the neighbour", host=NEIGHBOUR) as neighbour:
        command = forward(f"{NEIGHBOUR}:{neighbour.port}")
        assert curl(cluster, command.line()) == neighbour.name
        assert command.stop() == 0


def test_forward_prints_the_raw_address_too(cluster: Cluster, forward: Forward, origin: HttpOrigin) -> None:
    """With --unencrypted a second line is the TCP address, and both work."""
    command = forward("--unencrypted", origin.port)
    url, raw = command.line(), command.line()
    assert raw.startswith("tcp://127.0.0.1:")
    assert curl(cluster, url) == origin.name
    assert curl(cluster, raw.replace("tcp://", "http://")) == origin.name
    assert command.stop() == 0


def test_forward_takes_several_targets(cluster: Cluster, forward: Forward, origin: HttpOrigin) -> None:
    """Each target has a tunnel of its own, printed in their order; --json prints one object a line."""
    with HttpOrigin("another page") as another:
        command = forward("--json", origin.port, another.port)
        for served in (origin, another):
            printed = json.loads(command.line())
            assert printed["target"] == str(served.port)
            assert curl(cluster, printed["url"]) == served.name
        assert command.stop() == 0


def test_a_revoked_token_ends_its_command(cluster: Cluster, admin: Admin, forward: Forward, origin: HttpOrigin) -> None:
    """`token create` prints a token that works at once; `token revoke` ends what was opened with it, which exits with
    7 and says why, and from then on it is refused with 4."""
    token = admin.new_token()
    command = forward(origin.port, PORTWAY_TOKEN=token)
    url = command.line()
    assert curl(cluster, url) == origin.name
    assert "revoked" in admin.printed("token", "revoke", token.split("_")[1])
    assert command.ended() == 7
    assert "revoked" in command.errors()
    assert token not in command.errors()
    eventually(lambda: not admin.hosts())

    refused = forward(origin.port, PORTWAY_TOKEN=token)
    assert refused.ended() == 4


def test_a_token_has_no_more_tunnels_than_its_quota(admin: Admin, forward: Forward, origin: HttpOrigin) -> None:
    """The target that is one too many is told, and closes no other; the exit code says so at the end."""
    port = free_port()
    command = forward(origin.port, port, PORTWAY_TOKEN=admin.new_token("--max-tunnels", "1"))
    host_of(command.line())
    eventually(lambda: f"{port} is not forwarded" in command.errors())
    eventually(lambda: len(admin.hosts()) == 1)  # nodes announce in batches
    assert command.stop() == 5
    assert "1 tunnels" in command.errors()
    eventually(lambda: not admin.hosts())


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"PORTWAY_REGISTRY": None}, 3, "set PORTWAY_REGISTRY="),
        ({"PORTWAY_REGISTRY": "{nobody}"}, 6, "{nobody}"),
        ({"PORTWAY_CA": "{other_ca}"}, 6, "certificate"),
        ({"PORTWAY_CA": "/nowhere/ca.pem"}, 3, "/nowhere/ca.pem"),
        ({"PORTWAY_TOKEN": None}, 3, "set PORTWAY_TOKEN"),
        ({"PORTWAY_TOKEN": "a password"}, 4, "pw_<id>_<secret>"),
        ({"PORTWAY_TOKEN": "pw_abcdefgh_ijklmnopqrstuvwxyz"}, 4, "token"),
    ],
    ids=["no registry", "nobody there", "wrong CA", "no CA file", "no token", "malformed token", "unknown token"],
)
def test_forward_says_why_it_cannot(
    forward: Forward,
    origin: HttpOrigin,
    tmp_path: Path,
    variables: dict[str, str | None],
    code: int,
    said: str,
) -> None:
    """Each has its exit code and one line on standard error that says what to do; nothing is printed. What may pass is
    tried until the time is over, and a line before says so."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    places = {"nobody": f"{LOOPBACK}:{free_port()}", "other_ca": str(tmp_path / "other.pem")}
    filled = {name: value and value.format(**places) for name, value in variables.items()}
    passes = "{nobody}" in variables.values()
    command = forward("--timeout", 5 if passes else PATIENCE, origin.port, **filled)
    assert command.ended() == code
    *trying, error = command.errors().splitlines()
    assert ["trying again" in line for line in trying] == [True] * passes
    assert error.startswith("portway: ")
    assert said.format(**places) in error


def test_forward_refuses_what_is_no_port(forward: Forward) -> None:
    """A target that cannot be one is wrong usage."""
    assert forward("65536").ended() == 2


def test_admin_shows_what_is_there(admin: Admin, forward: Forward, origin: HttpOrigin) -> None:
    """`nodes list`, `tunnels list`, `tunnels show` and `tokens list` are tables for people, JSON for programs."""
    command = forward("--unencrypted", origin.port)
    url, raw = command.line(), command.line()
    label = host_of(url).partition(".")[0]
    eventually(lambda: host_of(url) in admin.printed("tunnels", "list"))
    assert "fra-1" in admin.printed("nodes", "list")
    (node,) = json.loads(admin.printed("nodes", "list", "--json"))["nodes"]
    assert (node["name"], node["region"]) == ("fra-1", "fra")
    assert host_of(url) in admin.printed("tunnel", "show", label)
    shown = json.loads(admin.printed("tunnel", "show", label, "--json"))["tunnel"]
    assert (shown["host"], shown["node"], shown["tenant"]) == (host_of(url), "fra-1", "demo")
    assert raw.endswith(f":{shown['unencrypted_port']}")
    tokens = json.loads(admin.printed("tokens", "list", "--json"))["tokens"]
    assert shown["token_id"] in {token["id"] for token in tokens}
    assert command.stop() == 0
    eventually(lambda: admin.run("tunnel", "show", label).returncode == 1)


def test_admin_watches_tunnels_come_and_go(admin: Admin, forward: Forward, origin: HttpOrigin, tmp_path: Path) -> None:
    """`tunnels watch` says when it has told all that is there, then a tunnel that opens and that it closes, each at
    once; interrupted, it ends with 130."""
    eventually(lambda: not admin.hosts())
    watching = admin.command("tunnels", "watch", "--json")
    with RunningProgram(watching, admin.environment, tmp_path / "watch.log") as watch:
        assert json.loads(watch.line()) == {"kind": "synced"}
        command = forward(origin.port)
        host = host_of(command.line())
        opened = json.loads(watch.line())
        assert (opened["kind"], opened["tunnel"]["host"]) == ("added", host)
        assert command.stop() == 0
        closed = json.loads(watch.line())
        assert (closed["kind"], closed["tunnel"]["host"]) == ("removed", host)
        assert watch.stop(signal.SIGINT) == 130


@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"PORTWAY_ADMIN_TOKEN": ""}, 2),
        ({"PORTWAY_REGISTRY": ""}, 2),
        ({"PORTWAY_REGISTRY": "{nobody}"}, 3),
        ({"PORTWAY_CA": "{other_ca}"}, 3),
        ({"PORTWAY_ADMIN_TOKEN": "pw_abcdefgh_ijklmnopqrstuvwxyz"}, 4),
        ({"PORTWAY_ADMIN_TOKEN": "{client}"}, 4),
    ],
    ids=["no token", "no registry", "nobody there", "wrong CA", "unknown token", "a client's token"],
)
def test_admin_says_why_it_cannot(
    cluster: Cluster, admin: Admin, tmp_path: Path, variables: dict[str, str], code: int
) -> None:
    """Each has its exit code and a reason on standard error; nothing is printed."""
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    places = {
        "nobody": f"{LOOPBACK}:{free_port()}",
        "other_ca": str(tmp_path / "other.pem"),
        "client": cluster.token,
    }
    done = admin.run("tunnels", "list", "--json", **{name: text.format(**places) for name, text in variables.items()})
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr
    assert cluster.token not in done.stderr

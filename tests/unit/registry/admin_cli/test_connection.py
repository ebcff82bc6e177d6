"""How portway-admin finds and trusts its registry, and how it says what went wrong."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import Result
from portway_registry.admin_cli import connection
from portway_registry.errors import StoreFull, StoreUnavailable
from portway_registry.store.embedded import EmbeddedStore
from portway_runtime import names
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.admin_stage import Stage, call
from portway_testkit.clusters.registry import Pki
from portway_testkit.links.connect_proxy import ConnectProxy
from portway_testkit.processes.ports import free_port
from portway_testkit.processes.threads import no_more_threads

Call = Callable[..., Result]
LIST = ("token", "list")
PROCESS_PATIENCE = 50.0  # seconds: more than a process with gRPC takes on a busy machine


@pytest.fixture
def dead() -> Iterator[str]:
    """An address without a listener, held by this fixture."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


def test_everything_can_come_from_the_environment(stage: Stage, admin: Call) -> None:
    """PORTWAY_REGISTRY, PORTWAY_ADMIN_TOKEN and PORTWAY_CA are what the flags are."""
    result = admin(
        *LIST,
        PORTWAY_REGISTRY=stage.address,
        PORTWAY_ADMIN_TOKEN=stage.token_file.read_text(),
        PORTWAY_CA=str(stage.pki.ca),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert "admin" in result.stdout


def test_a_flag_beats_the_environment(stage: Stage, dead: str) -> None:
    """What was typed counts."""
    assert stage.say(*LIST, PORTWAY_REGISTRY=dead, PORTWAY_ADMIN_TOKEN="pw_x", PORTWAY_CA="/none").exit_code == 0


def test_without_threads_no_registry_is_asked(stage: Stage) -> None:
    """gRPC would end the process; the reason says what to raise."""
    with no_more_threads():
        result = stage.say(*LIST)
    assert result.exit_code == 1
    assert "no registry can be asked: can't start new thread: raise the limit" in result.stderr


def test_json_is_asked_for_in_front_or_behind(stage: Stage) -> None:
    """Programs put it in front, people behind; it is the same."""
    assert stage.say("--json", *LIST).stdout == stage.say(*LIST, "--json").stdout


def test_plurals_are_the_same_commands(stage: Stage) -> None:
    """`nodes list` is `node list`."""
    for noun in ("node", "tunnel", "token"):
        singular, plural = stage.say("--json", noun, "list"), stage.say("--json", f"{noun}s", "list")
        assert (plural.exit_code, plural.stdout) == (0, singular.stdout)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where connections are accepted, by the kernel, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("first", ["dead", "silent"])
def test_the_next_registry_is_asked_when_the_first_is_away(
    stage: Stage, admin: Call, dead: str, silent: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several with commas the first that answers, soon: before a call to the one that is away would be over."""
    monkeypatch.setattr(connection, "_ANSWERED_WITHIN", 0.5)
    began = time.monotonic()
    result = admin(
        *("--registry", f"{dead if first == 'dead' else silent}, {stage.address}", "--ca", str(stage.pki.ca)),
        *("--token-file", str(stage.token_file), *LIST),
    )
    assert result.exit_code == 0
    assert time.monotonic() - began < connection._CALL_TIMEOUT


def test_without_a_ca_the_systems_are_trusted(stage: Stage, admin: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A company's CA is among them for every program; where its list cannot be read, that is told."""
    asked = ("--registry", stage.address, "--token-file", str(stage.token_file), *LIST)
    for name in ("PORTWAY_CA", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(stage.pki.ca))
    assert admin(*asked).exit_code == 0
    monkeypatch.setenv("SSL_CERT_FILE", "/none")
    result = admin(*asked)
    assert result.exit_code == 2
    assert "/none, which SSL_CERT_FILE names" in result.stderr


def test_only_a_proxy_that_it_is_told_of_is_used(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a flag or PORTWAY_PROXY; not the one of other programs, which gRPC would take."""
    with ConnectProxy() as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        assert stage.say(*LIST).exit_code == 0
        assert proxy.asked == []
        assert stage.say("--proxy", proxy.url, *LIST).exit_code == 0
        assert proxy.asked == [stage.address]
        assert stage.say(*LIST, PORTWAY_PROXY=proxy.url).exit_code == 0
        assert proxy.asked == [stage.address] * 2
        for none in ("direct", "DIRECT", " "):
            assert stage.say("--proxy", none, *LIST, PORTWAY_PROXY=proxy.url).exit_code == 0
        assert proxy.asked == [stage.address] * 2


def test_a_proxy_that_refuses_is_told(stage: Stage) -> None:
    """As a registry that cannot be reached; one that cannot be used is wrong usage. No password is shown."""
    with ConnectProxy() as proxy:
        proxy.login = "another:one"
        result = stage.say("--proxy", proxy.url.replace("//", "//me:secret@"), *LIST)
    assert result.exit_code == 3
    assert f"cannot reach the registry at {stage.address}: the proxy 127.0.0.1:{proxy.port}, which" in result.stderr
    assert "does not accept the user and password" in result.stderr
    assert "secret" not in result.stderr
    for url in ("socks5://me:secret@proxy.test:1080", "http://me:secret"):
        result = stage.say("--proxy", url, *LIST)
        assert result.exit_code == 2
        assert "secret" not in result.stderr


@pytest.mark.parametrize("flag", ["--registry", "--token-file"])
def test_what_is_missing_is_a_usage_error(stage: Stage, admin: Call, flag: str) -> None:
    """No registry or no token: exit code 2, and where to get one."""
    given = {"--registry": stage.address, "--ca": str(stage.pki.ca), "--token-file": str(stage.token_file)}
    del given[flag]
    result = admin(*(part for pair in given.items() for part in pair), *LIST)
    assert result.exit_code == 2
    assert {"--registry": "PORTWAY_REGISTRY", "--token-file": "PORTWAY_ADMIN_TOKEN"}[flag] in result.stderr


@pytest.mark.parametrize(
    "address", ["::1:7400", "localhost:", "localhost:x", "localhost:0", ":1", "localhost:70000", "https://a"]
)
def test_what_is_no_address_is_a_usage_error(admin: Call, address: str) -> None:
    """It is told as such, not as a registry that cannot be reached."""
    result = admin("--registry", address, "--token", "pw_x", *LIST)
    assert result.exit_code == 2
    assert "HOST:PORT" in result.stderr


def test_files_that_cannot_be_read_are_usage_errors(stage: Stage, admin: Call) -> None:
    """Which file, and why."""
    for flags in (("--ca", "/none", "--token", "pw_x"), ("--ca", str(stage.pki.ca), "--token-file", "/none")):
        result = admin("--registry", stage.address, *flags, *LIST)
        assert result.exit_code == 2
        assert "/none: No such file" in result.stderr


@pytest.mark.parametrize("token", ["pw_é", "pw_a\x07b"])
def test_what_no_token_can_be_is_a_usage_error(stage: Stage, admin: Call, token: str) -> None:
    """What gRPC could not even send is found here."""
    result = admin("--registry", stage.address, "--ca", str(stage.pki.ca), "--token", token, *LIST)
    assert result.exit_code == 2
    assert "not an API token" in result.stderr


class Pauses:
    """The time as portway-admin sees it: its pauses take none. The first one calls `then`, and from there on it stands
    still, for gRPC's own pauses are real."""

    def __init__(self, then: Callable[[], object] | None = None) -> None:
        self.then = then
        self.began = 0
        self.slept = 0.0

    def monotonic(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.began += 1
        if self.then is None:
            self.slept += seconds
        elif self.began == 1:
            self.then()
        time.sleep(0.02)


def test_a_registry_that_is_late_is_waited_for(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that starts a machine: nobody listens yet, for a call and for a watch."""
    for command in (LIST, ("node", "watch")):
        folder = tmp_path / command[1]
        folder.mkdir()
        port = free_port()
        late = Stage(pki, folder, listen=Endpoint("127.0.0.1", port))
        pauses = Pauses(late.start)
        monkeypatch.setattr(connection, "time", pauses)
        try:
            result = call("--registry", f"127.0.0.1:{port}", "--ca", str(pki.ca), "--token", "pw_x", *command)
        finally:
            late.stop()
        assert result.exit_code == 4, result.stderr  # it was reached: the token is none of its own
        assert pauses.began


def test_a_name_that_is_late_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that starts: the registry's name cannot be resolved yet."""
    known: list[names.Address] = []

    def resolve(host: str, flags: int = 0) -> list[names.Address]:
        if not known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return known

    monkeypatch.setattr(names, "_addresses", resolve)
    pauses = Pauses(lambda: known.append(names.Address(socket.AF_INET, "127.0.0.1")))
    monkeypatch.setattr(connection, "time", pauses)
    named = stage.say("--registry", f"localhost:{stage.address.rpartition(':')[2]}", *LIST)
    assert (named.exit_code, pauses.began > 0) == (0, True)


def test_a_registry_that_is_away_is_three(
    stage: Stage, admin: Call, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unreachable is told apart from refused, with the address; after five seconds of trying."""
    pauses = Pauses()
    monkeypatch.setattr(connection, "time", pauses)
    result = admin("--registry", dead, "--ca", str(stage.pki.ca), "--token", "pw_x", *LIST)
    assert result.exit_code == 3
    assert result.stderr.startswith(f"portway-admin: cannot reach the registry at {dead}")
    assert pauses.slept == pytest.approx(5, abs=0.3)


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        (StoreFull, 1, "the registry's store is full: an operator has to make room"),
        (StoreUnavailable, 3, "the registry cannot reach its store now: try again"),
    ],
)
def test_a_store_that_does_not_write_is_told_as_such(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kind: type[StoreUnavailable], code: int, words: str
) -> None:
    """The registry itself was reached."""

    async def refuse(*_: object, **__: object) -> bool:
        raise kind("/srv/db")

    monkeypatch.setattr(EmbeddedStore, "put", refuse)
    result = stage.say("token", "create", "--tenant", "demo")
    assert result.exit_code == code
    assert result.stderr.startswith(f"portway-admin: {words}")


def test_files_may_have_a_byte_order_mark(stage: Stage, admin: Call, tmp_path: Path) -> None:
    """The CA and the token, as editors write them."""
    ca, token = tmp_path / "bom.crt", tmp_path / "bom.token"
    ca.write_text(stage.pki.ca.read_text(), encoding="utf-8-sig")
    token.write_text(stage.token_file.read_text(), encoding="utf-8-sig")
    result = admin("--registry", stage.address, "--ca", str(ca), "--token-file", str(token), *LIST)
    assert (result.exit_code, result.stderr) == (0, "")


def test_a_wrong_ca_is_named(stage: Stage, admin: Call, tmp_path: Path) -> None:
    """A certificate that does not verify is unreachable too, and what it was verified with is said."""
    other = tmp_path / "other.crt"
    other.write_bytes(trustme.CA().cert_pem.bytes())
    result = admin("--registry", stage.address, "--ca", str(other), "--token", "pw_x", *LIST)
    assert result.exit_code == 3
    assert f"certificate is not from {other}" in result.stderr


@pytest.mark.parametrize("token", ["nonsense", f"pw_zzzzzzzz_{'a' * 32}"])
def test_a_token_that_is_not_good_is_four(stage: Stage, admin: Call, token: str) -> None:
    """Malformed and unknown: not authorised."""
    result = admin("--registry", stage.address, "--ca", str(stage.pki.ca), "--token", token, *LIST)
    assert result.exit_code == 4
    assert result.stderr.count("\n") == 1


def test_a_client_s_token_is_four(stage: Stage, admin: Call) -> None:
    """A client may not look after the cluster."""
    client = stage.ask("token", "create", "--tenant", "demo")["token"]
    result = admin("--registry", stage.address, "--ca", str(stage.pki.ca), "--token", client, *LIST)
    assert result.exit_code == 4
    assert "role admin" in result.stderr


@pytest.mark.parametrize("command", [("token", "list"), ("token", "list", "--json"), ("node", "watch")])
def test_a_reader_that_has_gone_ends_the_command_quietly(stage: Stage, command: tuple[str, ...]) -> None:
    """`portway-admin ... | head -1`: the code of SIGPIPE, which is no refusal of the registry's."""
    stage.node("fra-1")
    reading, writing = os.pipe()
    os.close(reading)
    given = ("--registry", stage.address, "--ca", str(stage.pki.ca), "--token-file", str(stage.token_file))
    with open(writing, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-c", "from portway_registry.admin_cli.start import main; main()", *given, *command],
            stdout=output,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
            timeout=PROCESS_PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_help_says_what_the_exit_codes_mean(admin: Call) -> None:
    """All of them, and what commands there are."""
    result = admin("--help")
    assert result.exit_code == 0
    for part in ("node", "tunnel", "token", "audit", "pki", "130", "141", "cannot be reached"):
        assert part in result.stdout

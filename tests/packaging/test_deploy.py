"""What is in deploy/: files that the programs of this commit take, with no more rights than they need."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from portway_registry import config as registry_config
from portway_relay import settings as relay_settings
from portway_relay.config import NodeLimits
from portway_server.settings_files import SERVER
from portway_server.wishes import CONFIG_DIR, STATE_DIR

_ROOT = Path(__file__).resolve().parents[2]
_SYSTEMD = _ROOT / "deploy" / "systemd"
_README = (_ROOT / "deploy" / "README.md").read_text()
_UNITS = ("portway-registry", "portway-relay")
_ALL_UNITS = (*_UNITS, "portway-server")
# As `systemd-analyze security` rates a unit, from 0 to 10: what is left to a service that is broken into.
_MOST_EXPOSURE = 3.0
# What a node takes to stop after its grace period is over: see Node.stop.
_CLOSING = 5.0


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)  # some directives are given twice
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(_SYSTEMD / f"{name}.service")
    return parser["Service"]


@pytest.mark.parametrize("name", _UNITS)
def test_a_service_starts_a_program_that_there_is(name: str) -> None:
    """With the settings that lie beside it, and a folder for what it keeps."""
    service = unit(name)
    program, *arguments = shlex.split(service["ExecStart"])
    short = name.removeprefix("portway-")
    assert Path(program).name in {script.name for script in entry_points(group="console_scripts")}
    assert arguments == ["serve", "--config", f"/etc/portway/{short}.toml"]
    assert (_SYSTEMD / f"{short}.toml").is_file()
    assert service["StateDirectory"] == name


def test_the_registry_s_settings_are_taken() -> None:
    """Every key is known, every value understood."""
    config = registry_config.load({}, {}, _SYSTEMD / "registry.toml")
    assert config.store == "embedded:/var/lib/portway-registry/registry.db"


def _with_comments(name: str, *without: str) -> str:
    """The settings of a file with those that are comments in it, and without some."""
    settings: dict[str, str] = {}
    for line in (_SYSTEMD / name).read_text().splitlines():
        if found := re.fullmatch(r"(?:# )?(?:[A-Z][^:=]*: )?([a-z_]+) = (.*)", line):
            settings[found[1]] = found[2]
    return "".join(f"{key} = {value}\n" for key, value in settings.items() if key not in without)


def test_the_registry_s_settings_that_are_comments_are_taken(tmp_path: Path) -> None:
    """All at once: with them it obtains certificates and stands behind a balancer."""
    file = tmp_path / "registry.toml"
    file.write_text(_with_comments("registry.toml", "tls_cert", "tls_key"))
    config = registry_config.load({}, {}, file)
    config.check_acme()
    assert config.acme_directory is not None
    assert config.acme_key_file == Path("/run/credentials/portway-registry.service/acme.key")
    assert (config.called, len(config.mesh_advertise)) == ("registry.example.com", 1)
    assert config.proxy_protocol_from


def test_a_node_s_settings_that_are_comments_are_taken(tmp_path: Path) -> None:
    """All at once: it answers DNS and stands behind a balancer; its certificates come from the registry."""
    file = tmp_path / "relay.toml"
    file.write_text(_with_comments("relay.toml", "tls_cert", "tls_key"))
    config = relay_settings.load({"config": file}, {})
    assert len(config.dns_listen) == 1
    assert len(config.public_address) == 2
    assert config.proxy_protocol_from


@pytest.mark.parametrize("store", ["embedded:memory", "etcd:https://etcd-1:2379"])
def test_the_first_admin_token_has_a_file_with_every_store(store: str) -> None:
    """In the folder that only the registry's user can enter."""
    config = registry_config.load({"store": store}, {}, _SYSTEMD / "registry.toml")
    assert config.first_admin_token_file() == Path("/var/lib/portway-registry/admin-token")
    assert "/var/lib/portway-registry/admin-token" in _README


def test_a_node_s_settings_are_taken() -> None:
    """Every key is known, every value understood; it keeps what it keeps where systemd lets it write."""
    config = relay_settings.load({"config": _SYSTEMD / "relay.toml"}, {})
    assert config.name == "fra-1"
    assert config.state_dir == Path("/var/lib/portway-relay")


@pytest.mark.parametrize("name", _ALL_UNITS)
def test_a_service_is_started_once_it_serves(name: str) -> None:
    """However long it waits for a registry or a store; its reload is SIGHUP."""
    service = unit(name)
    assert (service["Type"], service["TimeoutStartSec"]) == ("notify", "infinity")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert "AF_UNIX" in service["RestrictAddressFamilies"].split()  # for what it tells the service manager


@pytest.mark.parametrize("name", _ALL_UNITS)
def test_systemd_takes_a_service(name: str, tmp_path: Path) -> None:
    """Every directive, as its own tool reads it, without a running systemd."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze")
    text = (_SYSTEMD / f"{name}.service").read_text()
    file = tmp_path / f"{name}.service"
    file.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    verified = subprocess.run([tool, "verify", str(file)], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_a_node_is_not_killed_while_it_stops_in_order() -> None:
    """systemd waits for longer than the node's own grace period."""
    assert float(unit("portway-relay")["TimeoutStopSec"]) >= NodeLimits().stop_grace + _CLOSING


def test_each_service_has_a_user_of_its_own() -> None:
    """A relay that is broken into does not read the registry's keys; the README makes these users."""
    users = [unit(name)["User"] for name in _UNITS]
    assert users == [unit(name)["Group"] for name in _UNITS] == list(_UNITS)
    made = re.findall(r"^\$ useradd --system .*?([a-z-]+)$", _README, re.MULTILINE)
    assert made == users
    for name in _UNITS:
        short = name.removeprefix("portway-")
        assert f"install -g {name} -m 640 deploy/systemd/{short}.toml /etc/portway/" in _README


@pytest.mark.parametrize("name", _ALL_UNITS)
def test_a_service_is_left_little(name: str) -> None:
    """As systemd's own tool rates it, without a running systemd."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("needs systemd-analyze")
    command = [tool, "security", "--offline=yes", "--no-pager", str(_SYSTEMD / f"{name}.service")]
    rated = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"SYSTEMD_COLORS": "0"}
    )
    found = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", rated.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze cannot rate a file: {rated.stderr.strip()}")
    assert float(found[1]) <= _MOST_EXPOSURE, rated.stdout


def test_the_service_of_one_machine_runs_what_was_set_up() -> None:
    """As root, with the settings that `portway-server init` and `join` write where they write them; it may do to its
    programs what they need, and waits for the node to stop."""
    service = unit("portway-server")
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name in {script.name for script in entry_points(group="console_scripts")}
    assert arguments == ["up", "--config", str(CONFIG_DIR / SERVER)]
    assert "User" not in service
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_KILL", "CAP_CHOWN"} <= set(
        service["CapabilityBoundingSet"].split()
    )
    writable = {path.removeprefix("-") for path in service["ReadWritePaths"].split()}
    assert writable == {str(STATE_DIR / name) for name in (*_UNITS, "portway-server")}
    assert service["KillMode"] == "mixed", "it stops its programs itself, the node first"
    assert float(service["TimeoutStopSec"]) >= float(unit("portway-relay")["TimeoutStopSec"]) + _CLOSING


def test_an_invitation_is_on_no_command_line() -> None:
    """The settings name a file that systemd shows to the service, from one that root alone can read."""
    config = relay_settings.load({"config": _SYSTEMD / "relay.toml"}, {})
    assert config.join_file == Path("/run/credentials/portway-relay.service/invitation")
    assert "LoadCredential=invitation:/etc/portway/invitation\n" in (_SYSTEMD / "portway-relay.service").read_text()
    assert "--join " not in _README
    assert "umask 077;\n  portway-admin node invite --region fra > /etc/portway/invitation" in _README


@pytest.mark.parametrize("name", _UNITS)
def test_a_credential_may_be_missing(name: str) -> None:
    """A service starts without the files that its settings do not name, and every name in its settings is a
    credential."""
    text = (_SYSTEMD / f"{name}.service").read_text()
    loaded = re.findall(r"^LoadCredential=([\w.-]+):/etc/portway/\1$", text, re.MULTILINE)
    assert loaded == re.findall(r"^SetCredential=([\w.-]+):\\n$", text, re.MULTILINE)
    settings = (_SYSTEMD / f"{name.removeprefix('portway-')}.toml").read_text()
    named = re.findall(rf'"/run/credentials/{name}\.service/([\w.-]+)"', settings)
    assert sorted(named) == sorted(loaded)


def test_what_is_installed_is_pinned_and_hashed(tmp_path: Path) -> None:
    """The README's own command, from the lock file alone: each requirement has one version and the hashes of its
    files."""
    kept = sorted((_ROOT / ".tools").glob("uv-*/bin/uv"))
    uv = shutil.which("uv") or (str(kept[-1]) if kept else None)
    if uv is None:
        pytest.skip("needs uv")
    (command,) = re.findall(r"^\$ uv (export (?:.*\\\n)*.*)$", _README, re.MULTILINE)
    arguments = shlex.split(command.replace("\\\n", " "))
    file = tmp_path / "requirements.txt"
    arguments[arguments.index("--output-file") + 1] = str(file)
    subprocess.run([uv, "--offline", *arguments], cwd=_ROOT, check=True, capture_output=True)
    text = re.sub(r"^#.*\n|^ +#.*\n", "", file.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    requirements = [one for one in text.splitlines() if one.strip()]
    assert {"grpcio", "cryptography", "uvloop"} <= {re.split(r"[=\[ ]", one)[0] for one in requirements}
    assert not any(one.startswith(("trustme", "pytest", "mypy")) for one in requirements), "tests are not deployed"
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9._-]+==[^ ]+ ", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
        assert not requirement.startswith("portway"), requirement
    assert "pip install --require-hashes --only-binary :all: -r wheels/requirements.txt" in _README

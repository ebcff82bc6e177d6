"""What is in deploy/: files that the programs of this commit take."""

import configparser
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from portway_registry import config as registry_config
from portway_relay import settings as relay_settings
from portway_relay.config import NodeLimits

_SYSTEMD = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
# What a node takes to stop after its grace period is over: see Node.stop.
_CLOSING = 5.0


def unit(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(_SYSTEMD / f"{name}.service")
    return parser["Service"]


@pytest.mark.parametrize("name", ["portway-registry", "portway-relay"])
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


def test_a_node_s_settings_are_taken() -> None:
    """Every key is known, every value understood; it keeps what it keeps where systemd lets it write."""
    config = relay_settings.load({"config": _SYSTEMD / "relay.toml"}, {})
    assert config.name == "fra-1"
    assert config.state_dir == Path("/var/lib/portway-relay")


def test_a_node_is_not_killed_while_it_stops_in_order() -> None:
    """systemd waits for longer than the node's own grace period."""
    assert float(unit("portway-relay")["TimeoutStopSec"]) >= NodeLimits().stop_grace + _CLOSING

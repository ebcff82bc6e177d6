"""The settings of `portway-server up`: defaults < file < environment < flags.

Here: which there are, and those of the programs that it runs, read from their own files. Not here: what they do.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import portway_registry.config
import portway_relay.settings
from portway_registry.errors import RegistryError
from portway_relay.config import NodeConfig
from portway_relay.errors import RelayError
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.errors import SettingsError
from portway_runtime.settings import CONFIG, Setting, SettingTable, one_of

from portway_server.errors import SetupRefused

_FILE: Final = "FILE"
_RESOLVER_PORT: Final = 53


def _resolver(text: str) -> Endpoint:
    address = parse_endpoint(text, default_port=_RESOLVER_PORT)
    ipaddress.ip_address(address.host)
    return address


SETTINGS: Final = SettingTable(
    "portway-server up",
    "PORTWAY_SERVER_",
    (
        Setting("registry_config", Path, "the registry's settings; without it no registry is run", _FILE),
        Setting("relay_config", Path, "the relay node's settings", _FILE, required=True),
        Setting(
            "registry_name",
            str,
            "where clients reach the registry, as they are told: NAME, which is port 443, or NAME:PORT",
            "NAME[:PORT]",
            required=True,
        ),
        Setting("state_dir", Path, "where the first client's line is kept", "DIR", required=True),
        Setting("registry_user", str, "the user that the registry runs as; by default that of `up`", "USER"),
        Setting("relay_user", str, "the user that the relay node runs as; by default that of `up`", "USER"),
        Setting(
            "resolver",
            _resolver,
            "a resolver to look at the delegation with; by default the system's",
            "ADDRESS[:PORT]",
            repeatable=True,
        ),
        Setting("log_format", one_of("text", "json"), "text or json", "FORMAT"),
        Setting("log_level", one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "LEVEL"),
    ),
    empty_unsets=False,
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The settings of `portway-server up`. Each field is described by the setting of the same name in SETTINGS."""

    relay_config: Path
    registry_name: str
    state_dir: Path
    registry_config: Path | None = None
    registry_user: str | None = None
    relay_user: str | None = None
    resolver: tuple[Endpoint, ...] = ()
    log_format: str = "text"
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """The settings of all that runs on this machine. `registry` is None where there is none."""

    own: ServerConfig
    relay: NodeConfig
    registry: portway_registry.config.Config | None


def load(file: Path, environment: Mapping[str, str]) -> MachineConfig:
    """The settings in the file and in those that it names, with what the environment overrides.

    Raises SetupRefused for a machine that is not set up, SettingsError for a value that cannot be read.
    """
    if not file.exists():
        raise SetupRefused(
            f"this machine is not set up: there is no {file}. `portway-server init` sets up the first machine of a "
            "cluster, `portway-server join` a further one"
        )
    own = ServerConfig(**SETTINGS.load({CONFIG: file}, environment))
    try:
        registry = None
        if own.registry_config is not None:
            registry = portway_registry.config.load({}, environment, own.registry_config)
        return MachineConfig(own, portway_relay.settings.load({CONFIG: own.relay_config}, environment), registry)
    except (RegistryError, RelayError) as error:
        raise SettingsError(str(error)) from error

"""From flags, environment and file to a NodeConfig: defaults < file < environment < flags.

Here: one table that says of each setting how it is read and what it is for; the command line's help, the environment's
names, the file's keys and the README's table all come from it. Not here: rules about values (config.py).
"""

import argparse
import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from portway_runtime.endpoints import Endpoint, parse_endpoint, parse_port

from portway_relay.config import NodeConfig, NodeLimits, PortRange
from portway_relay.errors import ConfigError
from portway_relay.membership.state_folder import CA, CERTIFICATE, CURRENT, KEY

PREFIX: Final = "PORTWAY_RELAY_"


def parse_ports(text: str) -> PortRange:
    """`A-B`. Raises ValueError."""
    first, dash, last = text.partition("-")
    if not dash or not first.isdecimal() or not last.isdecimal() or not 1 <= int(first) <= int(last) <= 65_535:
        raise ValueError("write first-last, such as 20000-29999")
    return PortRange(int(first), int(last))


def _listen_address(text: str) -> Endpoint:
    """As parse_endpoint; `*:port` is every address."""
    return parse_endpoint(text, wildcard=True)


def _advertised_address(text: str) -> Endpoint:
    """As parse_endpoint; without a port it is 0: the one listened on."""
    return parse_endpoint(text, default_port=0, wildcard=True)


def _degrees(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("use degrees as a decimal number, such as -33.9") from None


def _positive_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise ValueError("use a number of seconds above 0")
    return number


def _positive_count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("use a whole number, 1 or more")
    return int(text)


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"use one of {', '.join(allowed)}")
        return text

    return parse


@dataclass(frozen=True, slots=True)
class Setting:
    """`key` is the file's; the flag has dashes for its underscores, the variable the prefix and upper case."""

    key: str
    parse: Callable[[str], Any]
    help: str
    metavar: str = "VALUE"
    required: bool = False
    repeatable: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.key.upper()


SETTINGS: Final = (
    Setting("name", str, "the node's name, unique in the cluster", "NAME", required=True),
    Setting("region", str, "its region, the second part of its host names", "REGION", required=True),
    Setting("domain", str.lower, "what follows the region in host names", "DOMAIN", required=True),
    Setting("listen", _listen_address, "the public TLS port; *:443 is every address", "HOST:PORT", required=True),
    Setting(
        "advertise",
        lambda text: parse_endpoint(text, default_port=0, wildcard=True),
        "where clients reach it",
        "HOST[:PORT]",
    ),
    Setting("public_port", parse_port, "the port in tunnels' URLs, when a balancer changes it", "PORT"),
    Setting("raw_listen", str, "where raw TCP tunnels listen", "HOST"),
    Setting("raw_ports", parse_ports, "ports for raw TCP tunnels", "FIRST-LAST"),
    Setting("raw_host", str, "the host name of raw TCP tunnels", "HOST"),
    Setting("registry", _listen_address, "a registry's mesh port", "HOST:PORT", required=True, repeatable=True),
    Setting(
        "join", str, "an invitation (`portway-admin node invite`), used once: joins the cluster", "TOKEN@HOST:PORT"
    ),
    Setting("state_dir", Path, "where a node that joined keeps its key and certificate (portway-relay-NAME)", "DIR"),
    Setting("registry_ca", Path, "the CA of the registry that is joined at, else the system's (PEM)", "FILE"),
    Setting("cluster_ca", Path, "the cluster's CA (PEM), for a node that does not join by itself", "FILE"),
    Setting("cert", Path, "such a node's cluster certificate (PEM)", "FILE"),
    Setting("key", Path, "its key (PEM)", "FILE"),
    Setting(
        "tls_cert",
        Path,
        "a region's wildcard certificate, with its chain (PEM); once for each region",
        "FILE",
        required=True,
        repeatable=True,
    ),
    Setting("tls_key", Path, "the key of each --tls-cert, in the same order", "FILE", required=True, repeatable=True),
    Setting("admin_listen", _listen_address, "health and metrics over HTTP; off unless given", "HOST:PORT"),
    Setting("latitude", _degrees, "where it is, in degrees", "DEGREES"),
    Setting("longitude", _degrees, "where it is, in degrees", "DEGREES"),
    Setting("ready_file", Path, "written as JSON once visitors can be served", "FILE"),
    Setting("log_format", _one_of("text", "json"), "text or json", "FORMAT"),
    Setting("log_level", _one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "LEVEL"),
)
_LIMIT_HELP: Final = {
    "max_sessions": "client sessions at once",
    "sessions_per_second": "new client sessions a second; who comes too early is told when to try again",
    "session_burst": "new client sessions at once",
    "max_tunnels_per_session": "tunnels of one session",
    "max_lanes": "data lanes of one session",
    "max_visits_per_tunnel": "visits of one tunnel at once",
    "binds_per_second": "tunnels that one session may open a second",
    "bind_burst": "tunnels that one session may open at once",
    "proof_hashes_per_second": "hashes a second that the proofs of one token, or of one node, may cost",
    "proof_hash_burst": "hashes that they may cost at once",
    "max_greetings": "client connections that have not said who they are",
    "max_greetings_per_address": "of these, of one address",
    "max_half_open": "connections whose ClientHello is awaited; the oldest makes room",
    "max_half_open_per_address": "of these, of one address",
    "accepts_per_turn": "connections accepted before visits get their turn",
    "hellos_per_turn": "handshakes begun before visits get their turn",
    "hello_time": "for a whole ClientHello",
    "greeting_time": "for a client's handshake and its first frame",
    "connections_per_second": "new connections of one address (IPv6: one /64)",
    "connection_burst": "new connections of one address at once",
    "unknown_names_per_second": "names that one address may ask for in vain a second",
    "unknown_name_burst": "names that one address may ask for in vain at once",
    "resume_time": "a client that lost its connection keeps its tunnels for so long",
    "port_rest": "a released raw port is given to nobody else for so long",
    "drain_grace": "visits may finish when their tunnel has moved to another node",
    "leave_grace": "visits may finish when their tunnel is closed by its client",
    "first_bytes_time": "a refused visitor's first bytes are awaited for so long",
    "lookups_per_second": "names of other nodes' tunnels that are asked for a second",
    "lookup_time": "a name of another node's tunnel is asked for no longer",
    "lane_wait": "a visitor waits so long for its client",
    "stop_grace": "clients may attach elsewhere and visits finish when the node stops",
}
LIMITS: Final = tuple(
    Setting(
        limit.name,
        _positive_count if limit.type is int else _positive_number,
        _LIMIT_HELP[limit.name],
        "N" if limit.type is int else "SECONDS",
    )
    for limit in fields(NodeLimits)
)
# Settings of a node that was given its certificate, and what takes their place in a state folder.
_IDENTITY: Final = {"cluster_ca": CA, "cert": CERTIFICATE, "key": KEY}
_BY_KEY: Final = {setting.key: setting for setting in (*SETTINGS, *LIMITS)}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Every setting as a flag, and --config. Values stay text until `load`."""
    parser.add_argument("--config", metavar="FILE", type=Path, help="a TOML file with any of the settings below")
    limits = parser.add_argument_group("limits")
    for group, settings in ((parser, SETTINGS), (limits, LIMITS)):
        for setting in settings:
            group.add_argument(
                setting.flag,
                dest=setting.key,
                metavar=setting.metavar,
                action="append" if setting.repeatable else "store",
                help=setting.help,
            )


def load(flags: Mapping[str, Any], environment: Mapping[str, str]) -> NodeConfig:
    """The checked configuration. Raises ConfigError, which names the setting and where it came from."""
    raw: dict[str, tuple[Any, str]] = {}
    path = flags.get("config") or environment.get(PREFIX + "CONFIG")
    if path is not None:
        raw |= _read_file(Path(path))
    raw |= _read_environment(environment)
    for key in _BY_KEY:
        if flags.get(key) is not None:
            raw[key] = (flags[key], _BY_KEY[key].flag)

    missing = [setting.flag for setting in SETTINGS if setting.required and setting.key not in raw]
    if missing:
        raise ConfigError(f"{', '.join(missing)} missing: give each as a flag, in the environment or in the file")
    values = {key: _parse(_BY_KEY[key], value, source) for key, (value, source) in raw.items()}
    _add_identity(values)
    limit_values = {setting.key: values.pop(setting.key) for setting in LIMITS if setting.key in values}
    config = NodeConfig(**values, limits=NodeLimits(**limit_values))
    config.check()
    return config


def _add_identity(values: dict[str, Any]) -> None:
    """Where the cluster certificate is: in files that were given, or in the state folder of a node that joins."""
    given = [key for key in _IDENTITY if key in values]
    if len(given) == len(_IDENTITY):
        if "join" in values or "state_dir" in values:
            raise ConfigError("--join and --state-dir are for a node that was not given --cert, --key and --cluster-ca")
        return
    if given:
        missing = ", ".join(_BY_KEY[key].flag for key in _IDENTITY if key not in values)
        raise ConfigError(f"{missing} missing: --cert, --key and --cluster-ca go together; a node that joins has none")
    folder: Path = values.setdefault("state_dir", Path(f"portway-relay-{values['name']}"))
    values |= {key: folder / CURRENT / name for key, name in _IDENTITY.items()}


def _read_file(path: Path) -> dict[str, tuple[Any, str]]:
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for key in content:
        _demand_known(key, _BY_KEY, f"{path} has the key")
    return {key: (value, f"{key} in {path}") for key, value in content.items()}


def _read_environment(environment: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    by_variable = {setting.variable: setting for setting in _BY_KEY.values()}
    found: dict[str, tuple[Any, str]] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable == PREFIX + "CONFIG":
            continue
        _demand_known(variable, by_variable, "the environment has")
        setting = by_variable[variable]
        found[setting.key] = (value.split(",") if setting.repeatable else value, variable)
    return found


def _demand_known(key: str, known: Mapping[str, Setting], what: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean {near[0]!r}?" if near else "`portway-relay serve --help` lists what there is"
    raise ConfigError(f"{what} {key!r}, which is no setting: {advice}")


def _parse(setting: Setting, value: Any, source: str) -> Any:
    if setting.repeatable:
        texts = value if isinstance(value, list) else [value]
        return tuple(_parse_one(setting, text, source) for text in texts)
    return _parse_one(setting, value, source)


def _parse_one(setting: Setting, value: Any, source: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Path):
        raise ConfigError(f"{source}: {value!r} cannot be used: {setting.help}")
    try:
        return setting.parse(str(value))
    except ValueError as error:
        raise ConfigError(f"{source}: {str(value)!r} cannot be used: {error}") from None

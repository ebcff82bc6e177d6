"""The settings of a node: how each is read, what it is for; flags, variables, the file's keys and the help follow.

Here: one table, and where the cluster certificate is. Not here: reading the sources (portway_runtime.settings), rules
about values (config.py).
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from portway_proto.records import ip_addresses
from portway_runtime import settings as runtime_settings
from portway_runtime.balancers import parse_network
from portway_runtime.endpoints import Endpoint, parse_endpoint, parse_port
from portway_runtime.settings import Setting, SettingTable, flag, one_of, whole_number

from portway_relay.config import HELP, LEAST, HttpListen, NodeConfig, NodeLimits, PortRange
from portway_relay.errors import ConfigError
from portway_relay.membership.state_folder import CA, CERTIFICATE, CURRENT, KEY

PREFIX: Final = "PORTWAY_RELAY_"


def parse_ports(text: str) -> PortRange:
    """Read `A-B`. Raises ValueError."""
    first, dash, last = text.partition("-")
    if not dash or not first.isdecimal() or not last.isdecimal() or not 1 <= int(first) <= int(last) <= 65_535:
        raise ValueError("write first-last, such as 20000-29999")
    return PortRange(int(first), int(last))


def _listen_address(text: str) -> Endpoint:
    """As parse_endpoint; `*:port` is every address."""
    return parse_endpoint(text, wildcard=True)


def _advertised_address(text: str) -> Endpoint:
    """As parse_endpoint; without a port it is 0, which stands for the port that is listened on."""
    return parse_endpoint(text, default_port=0, wildcard=True)


def _http_address(text: str) -> Endpoint | HttpListen:
    """As _listen_address; `off` and `none` are none."""
    return HttpListen.OFF if text.lower() in ("off", "none") else _listen_address(text)


def _ip_address(text: str) -> str:
    """An IP address of a host, in its shortest form."""
    found = ip_addresses([text.removeprefix("[").removesuffix("]")])
    if not found:
        raise ValueError("write one IP address, such as 203.0.113.7 or 2001:db8::7")
    return found[0]


def _degrees(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("use degrees as a decimal number, such as -33.9") from None


def _seconds(least: int) -> Callable[[str], float]:
    """Reads a number of seconds: above 0, or from 0 on where `least` is 0."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not (0 < number < 1e6 or (number == 0 and least == 0)):
            raise ValueError("use a number of seconds above 0" if least else "use a number of seconds, 0 or above")
        return number

    return read


SETTINGS: Final = (
    Setting("name", str, "the node's name, unique in the cluster", "NAME", required=True),
    Setting("region", str, "its region, the second part of its host names", "REGION", required=True),
    Setting("domain", str.lower, "what follows the region in host names", "DOMAIN", required=True),
    Setting("listen", _listen_address, "the public TLS port; *:443 is every address", "HOST:PORT", required=True),
    Setting("advertise", _advertised_address, "where clients reach it; by default at --listen", "HOST[:PORT]"),
    Setting(
        "public_port",
        parse_port,
        "the port in tunnels' URLs, when a balancer changes it; by default that of --listen",
        "PORT",
    ),
    Setting(
        "http_listen",
        _http_address,
        "a port that only redirects plain HTTP to https; port 80 by default where --listen has port 443; off: none",
        "HOST:PORT|off",
    ),
    Setting(
        "public_address",
        _ip_address,
        "a public IP address of this node, for DNS answers, once for each; by default that of --advertise or --listen",
        "IP",
        repeatable=True,
    ),
    Setting(
        "dns_listen",
        _listen_address,
        "where DNS queries for --domain are answered, over UDP and TCP; off unless given",
        "HOST:PORT",
        repeatable=True,
    ),
    Setting(
        "dns_other_region",
        one_of("yes", "no"),
        "where the two nodes nearest to a resolver are of one region, name one of another, too: no visit fails when a "
        "region is lost, and a third of the visitors enter there each day",
        "yes|no",
    ),
    Setting("geoip", Path, "an .mmdb file to locate resolvers by, in place of the embedded table", "FILE"),
    Setting("raw_listen", str, "where raw TCP tunnels listen; by default the host of --listen", "HOST"),
    Setting("raw_ports", parse_ports, "ports for raw TCP tunnels", "FIRST-LAST"),
    Setting("raw_host", str, "the host name of raw TCP tunnels; by default REGION.DOMAIN", "HOST"),
    Setting("registry", _listen_address, "a registry's mesh port", "HOST:PORT", required=True, repeatable=True),
    Setting(
        "join", str, "an invitation (`portway-admin node invite`), used once: joins the cluster", "TOKEN@HOST[:PORT]"
    ),
    Setting(
        "join_file",
        Path,
        "a file with the invitation, in place of --join, which other users can see in the process list; it may be "
        "deleted once the node has joined",
        "FILE",
    ),
    Setting(
        "state_dir", Path, "where a node that joined stores its key and certificate (default portway-relay-NAME)", "DIR"
    ),
    Setting("registry_ca", Path, "the CA of the registry to join at (PEM); the system's CAs by default", "FILE"),
    Setting("cluster_ca", Path, "the cluster's CA (PEM), for a node that does not join by itself", "FILE"),
    Setting("cert", Path, "the cluster certificate of such a node (PEM)", "FILE"),
    Setting("key", Path, "the key of --cert (PEM)", "FILE"),
    Setting(
        "tls_cert",
        Path,
        "a region's wildcard certificate, with its chain (PEM); once for each region whose certificate registries do "
        "not obtain",
        "FILE",
        repeatable=True,
    ),
    Setting("tls_key", Path, "the key of each --tls-cert, in the same order", "FILE", repeatable=True),
    Setting(
        "proxy_protocol_from",
        parse_network,
        "a load balancer in front, or a network of them: their connections have to begin with a PROXY header, which "
        "says whose they are; once for each",
        "CIDR",
        repeatable=True,
    ),
    Setting("admin_listen", _listen_address, "health and metrics over HTTP; off unless given", "HOST:PORT"),
    Setting("latitude", _degrees, "the node's latitude; without it and --longitude its place is unknown", "DEGREES"),
    Setting("longitude", _degrees, "the node's longitude", "DEGREES"),
    Setting("ready_file", Path, "a JSON file that exists while visitors can be served", "FILE"),
    Setting("log_format", one_of("text", "json"), "text or json", "FORMAT"),
    Setting("log_level", one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "LEVEL"),
)
LIMITS: Final = tuple(
    Setting(
        limit.name,
        (whole_number if limit.type is int else _seconds)(limit.metadata[LEAST]),
        f"{limit.metadata[HELP]} (default {limit.default:,})",
        "N" if limit.type is int else "SECONDS",
    )
    for limit in fields(NodeLimits)
)
_TABLE: Final = SettingTable("portway-relay serve", PREFIX, (*SETTINGS, *LIMITS), empty_unsets=False)
# The settings of a node that was given its certificate, and the files of a state folder that take their place.
_IDENTITY: Final = {"cluster_ca": CA, "cert": CERTIFICATE, "key": KEY}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every setting as a flag, and --config. Values stay text until `load`."""
    runtime_settings.add_config_flag(parser)
    runtime_settings.add_flags(parser, runtime_settings.with_defaults(SETTINGS, NodeConfig))
    runtime_settings.add_flags(parser, LIMITS, "limits")


def log_format(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """The form of log lines, for an error in the settings; `words` are the command line's."""
    return _TABLE.log_format(words, environment)


def load(flags: Mapping[str, Any], environment: Mapping[str, str]) -> NodeConfig:
    """The checked configuration.

    Raises SettingsError for a value that cannot be read, with its name and where it came from, and ConfigError for
    values that cannot work.
    """
    values = _TABLE.load(flags, environment)
    _add_identity(values)
    limits = {setting.key: values.pop(setting.key) for setting in LIMITS if setting.key in values}
    config = NodeConfig(**values, limits=NodeLimits(**limits))
    config.check()
    return config


def _add_identity(values: dict[str, Any]) -> None:
    """Add where the cluster certificate is: in given files, or in the state folder of a node that joins."""
    given = [key for key in _IDENTITY if key in values]
    if len(given) == len(_IDENTITY):
        if values.keys() & {"join", "join_file", "state_dir"}:
            raise ConfigError(
                "--join, --join-file and --state-dir are for a node that was not given --cert, --key and --cluster-ca"
            )
        return
    if "join" in values and "join_file" in values:
        raise ConfigError("--join and --join-file are both given: an invitation is in one of them")
    if given:
        missing = ", ".join(flag(key) for key in _IDENTITY if key not in values)
        raise ConfigError(f"{missing} missing: --cert, --key and --cluster-ca go together; a node that joins has none")
    folder: Path = values.setdefault("state_dir", Path(f"portway-relay-{values['name']}"))
    values |= {key: folder / CURRENT / name for key, name in _IDENTITY.items()}

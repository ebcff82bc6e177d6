"""Where the registry is, which token to show, whom to trust: arguments, then the environment.

Resolved when a tunnel is opened, never at import. What is not given at all is a ConfigError that names both places.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portway.errors import AuthError, ConfigError, InvalidError

REGISTRY_VARIABLE = "PORTWAY_REGISTRY"
TOKEN_VARIABLE = "PORTWAY_TOKEN"  # noqa: S105 - a variable's name
CA_VARIABLE = "PORTWAY_CA"

# How the node is chosen: the first candidates race, or the first one by distance is taken unless it fails.
LATENCY = "latency"
GEOIP = "geoip"
STRATEGIES = (LATENCY, GEOIP)

_TOKEN = re.compile(r"pw_[A-Za-z0-9]+_[A-Za-z0-9_-]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """Whom to ask for nodes and by what right. Tunnels with equal settings share a session.

    `registries` are host:port, tried in turn. `ca` is PEM; None trusts the system's roots.
    """

    registries: tuple[str, ...]
    token: str = field(repr=False)
    ca: bytes | None = field(default=None, repr=False)
    region: str = ""
    strategy: str = LATENCY


def resolve(
    *,
    registry: str | Sequence[str] | None = None,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    region: str | None = None,
    strategy: str = LATENCY,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings now.

    Raises ConfigError, AuthError for a token that has not a token's form, InvalidError for what is of no use at all.
    """
    environment = os.environ if environment is None else environment
    _check_kind("token", token, str)
    _check_kind("region", region, str)
    _check_kind("ca", ca, (str, os.PathLike))
    if strategy not in STRATEGIES:
        raise InvalidError(f"the strategy is one of {', '.join(map(repr, STRATEGIES))}, not {strategy!r}")
    named = environment.get(REGISTRY_VARIABLE, "") if registry is None else registry
    token = environment.get(TOKEN_VARIABLE, "") if token is None else token
    path = environment.get(CA_VARIABLE, "") if ca is None else ca
    return Settings(_registries(named), _checked_token(token), _read_ca(path), region or "", strategy)


def _check_kind(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if value is not None and not isinstance(value, kind):
        raise InvalidError(f"{name} is text, not of type {type(value).__name__}")


def _registries(named: str | Sequence[str]) -> tuple[str, ...]:
    entries = named.split(",") if isinstance(named, str) else named
    if not isinstance(entries, Sequence) or not all(isinstance(entry, str) for entry in entries):
        raise InvalidError(f"registry is host:port, or several of them, not {named!r}")
    found = tuple(dict.fromkeys(entry.strip() for entry in entries if entry.strip()))
    if not found:
        raise ConfigError(f"no registry is named: set {REGISTRY_VARIABLE}=host:port, or pass registry= (--registry)")
    for entry in found:
        _check_address(entry)
    return found


def _check_address(entry: str) -> None:
    host, separator, port = entry.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    usable = bracketed or _HOST.fullmatch(host)
    if not separator or not usable or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(f"{entry!r} does not name a registry: write host:port, such as registry.example.com:7400")


def _checked_token(token: str) -> str:
    token = token.strip()
    if not token:
        raise ConfigError(
            f"no token is given: set {TOKEN_VARIABLE}, or pass token= (--token); portway-admin token create makes one"
        )
    if not _TOKEN.fullmatch(token):
        raise AuthError("the token is malformed: it looks like pw_<id>_<secret>; copy it whole from portway-admin")
    return token


def _read_ca(path: str | os.PathLike[str]) -> bytes | None:
    if not os.fspath(path):
        return None
    try:
        with open(path, "rb") as file:
            pem = file.read()
    except OSError as error:
        raise ConfigError(
            f"the CA file {os.fspath(path)} cannot be read ({error.strerror}): check {CA_VARIABLE}"
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError(f"the CA file {os.fspath(path)} holds no certificate in PEM: check {CA_VARIABLE}")
    return pem

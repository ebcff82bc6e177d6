"""Settings of a tunnel: the registries to ask, the token to present, the CA to trust, when to go to a nearer node; and
the path of its key file, and whether its engine has a process of its own.

They are resolved when a tunnel is opened, never at import; arguments take precedence over the environment. A missing
registry or token is a ConfigError that names the argument and the variable.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

from portway_runtime.endpoints import parse_endpoint, parse_registry
from portway_runtime.errors import SettingsError
from portway_runtime.pem_files import read_pem
from portway_runtime.proxies import NO_PROXIES, Proxies, proxies_of

from portway.errors import AuthError, ConfigError, InvalidError

REGISTRY_VARIABLE: Final = "PORTWAY_REGISTRY"
TOKEN_VARIABLE: Final = "PORTWAY_TOKEN"  # noqa: S105 - a variable's name
CA_VARIABLE: Final = "PORTWAY_CA"
KEY_VARIABLE: Final = "PORTWAY_KEY"
RETURNS_VARIABLE: Final = "PORTWAY_RETURNS"
PROXY_VARIABLE: Final = "PORTWAY_PROXY"
PROCESS_VARIABLE: Final = "PORTWAY_PROCESS"

# How the node is chosen: the first candidates race, or the nearest by location is taken unless it cannot be reached.
LATENCY: Final = "latency"
GEOIP: Final = "geoip"
STRATEGIES: Final = (LATENCY, GEOIP)

# In place of times: a session stays at its node until it loses it.
NEVER: Final = "never"

_TOKEN: Final = re.compile(r"pw_[A-Za-z0-9]+_[A-Za-z0-9_-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class ReturnTimes:
    """When a session looks for a nearer node and goes there. In seconds.

    look: until the first look after attaching, half to one and a half times; each further time is twice the one before.
    rest: the longest such time. With it a look's grant comes before the one before is to be renewed.
    ready: for which a nearer node must have been ready. spread: within which, after that, clients go there.
    pause: between two returns, at least.
    """

    look: float = 75.0
    rest: float = 1200.0
    ready: float = 60.0
    spread: float = 240.0
    pause: float = 600.0


RETURN_TIMES: Final = ReturnTimes()


@dataclass(frozen=True, slots=True)
class Settings:
    """The registries, the credentials, and the choice of node. Tunnels with equal settings share a session.

    registries: each `host:port`, tried in turn. ca: PEM; None trusts the system's roots. region: "" is any region.
    returns: None stays at a node until it is lost. proxies: which connections to registries and nodes go through a
    proxy.
    """

    registries: tuple[str, ...]
    token: str = field(repr=False)
    ca: bytes | None = field(default=None, repr=False)
    region: str = ""
    strategy: str = LATENCY
    returns: ReturnTimes | None = RETURN_TIMES
    proxies: Proxies = NO_PROXIES


def resolve(
    *,
    registry: str | Sequence[str] | None = None,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    region: str | None = None,
    strategy: str = LATENCY,
    returns: str | None = None,
    proxy: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """The settings that these arguments and the environment (the process's, if None) make now.

    Raises InvalidError for an argument of the wrong type, AuthError for a malformed token, ConfigError for what is
    missing or cannot be used.
    """
    environment = os.environ if environment is None else environment
    _check_kind("token", token, str)
    _check_kind("region", region, str)
    _check_kind("proxy", proxy, str)
    _check_kind("ca", ca, (str, os.PathLike))
    _check_kind("returns", returns, str)
    if strategy not in STRATEGIES:
        raise InvalidError(f"the strategy is one of {', '.join(map(repr, STRATEGIES))}, not {strategy!r}")
    registries = environment.get(REGISTRY_VARIABLE, "") if registry is None else registry
    token = environment.get(TOKEN_VARIABLE, "") if token is None else token
    path = environment.get(CA_VARIABLE, "") if ca is None else ca
    checked = _checked_registries(registries)
    return Settings(
        checked,
        _checked_token(token),
        _read_ca(path),
        region or "",
        strategy,
        _return_times(environment.get(RETURNS_VARIABLE, "") if returns is None else returns),
        _checked_proxies(proxy, environment, checked),
    )


def resolve_key(key: str | os.PathLike[str] | None, environment: Mapping[str, str] | None = None) -> str:
    """The path of the key file that this argument or the environment names; "": the tunnel's key is not kept. Raises
    InvalidError."""
    environment = os.environ if environment is None else environment
    _check_kind("key", key, (str, os.PathLike))
    path = os.path.expanduser(environment.get(KEY_VARIABLE, "") if key is None else key)  # noqa: PTH111 - see below
    if path.startswith("~"):
        raise InvalidError(f"the key file {path} is in the home of no user: write its whole path")
    if "\0" in path:
        raise InvalidError(f"no file can be named {path!r}, as key says")
    return path  # not a Path: importing pathlib takes 4 ms, and most tunnels have no key file


def resolve_process(process: bool | None, environment: Mapping[str, str] | None = None) -> bool:
    """Whether this argument or the environment wants an engine in a process of its own. Raises InvalidError,
    ConfigError."""
    if process is not None:
        if not isinstance(process, bool):
            raise InvalidError(f"process is True or False, not {process!r}")
        return process
    value = (os.environ if environment is None else environment).get(PROCESS_VARIABLE, "").strip()
    if value not in ("", "0", "1"):
        raise ConfigError(f"{PROCESS_VARIABLE} is 1 for an engine in a process of its own, or 0, not {value!r}")
    return value == "1"


def _check_kind(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    if value is not None and not isinstance(value, kind):
        raise InvalidError(f"{name} is text, not of type {type(value).__name__}")


def _checked_registries(registries: str | Sequence[str]) -> tuple[str, ...]:
    entries = registries.split(",") if isinstance(registries, str) else registries
    if not isinstance(entries, Sequence) or not all(isinstance(entry, str) for entry in entries):
        raise InvalidError(f"registry is host or host:port, or several of them, not {registries!r}")
    found = tuple(dict.fromkeys(_registry(entry.strip()) for entry in entries if entry.strip()))
    if not found:
        raise ConfigError(f"no registry is named: set {REGISTRY_VARIABLE}=host, or pass registry= (--registry)")
    return found


def _checked_proxies(proxy: str | None, environment: Mapping[str, str], registries: tuple[str, ...]) -> Proxies:
    source = PROXY_VARIABLE if proxy is None else "proxy= (--proxy)"
    named = (environment.get(PROXY_VARIABLE, "").strip() or None) if proxy is None else proxy
    proxies = proxies_of(environment, named, source)
    try:
        for registry in registries:
            proxies.way_to(parse_endpoint(registry))
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    return proxies


def _registry(entry: str) -> str:
    """The `host:port` that an entry means. Raises ConfigError."""
    try:
        endpoint = parse_registry(entry)
    except ValueError:
        endpoint = None
    if endpoint is None or not (entry.startswith("[") or _HOST.fullmatch(endpoint.host)):
        raise ConfigError(
            f"{entry!r} does not name a registry: write host, which is at port 443, or host:port, such as "
            "tun.example.com or registry.example.com:7400"
        )
    return str(endpoint)


def _checked_token(token: str) -> str:
    token = token.strip()
    if not token:
        raise ConfigError(
            f"no token is given: set {TOKEN_VARIABLE}, or pass token= (--token); portway-admin token create makes one"
        )
    if not _TOKEN.fullmatch(token):
        raise AuthError("the token is malformed: it looks like pw_<id>_<secret>; copy it whole from portway-admin")
    return token


def _return_times(text: str) -> ReturnTimes | None:
    """Reads `never`, or `ready=60,spread=240`; what is not named has its default."""
    if text.strip() == NEVER:
        return None
    known = {one.name for one in fields(ReturnTimes)}
    named: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if name not in known or not 0 < seconds < math.inf:
            raise ConfigError(
                f"{RETURNS_VARIABLE} (returns=, --returns) is {NEVER!r}, or seconds such as 'ready=60,spread=240' for "
                f"some of {', '.join(sorted(known))}, not {part!r}"
            )
        named[name] = seconds
    return replace(RETURN_TIMES, **named)


def _read_ca(path: str | os.PathLike[str]) -> bytes | None:
    if not os.fspath(path):
        return None
    if "\0" in os.fspath(path):
        raise InvalidError(f"no file can be named {os.fspath(path)!r}, as ca says")
    try:
        pem = read_pem(path)
    except OSError as error:
        raise ConfigError(
            f"the CA file {os.fspath(path)} cannot be read ({error.strerror}): check {CA_VARIABLE}"
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise ConfigError(f"the CA file {os.fspath(path)} holds no certificate in PEM: check {CA_VARIABLE}")
    return pem

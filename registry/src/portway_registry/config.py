"""The registry's settings: defaults < file < environment < flags.

Here: what can be set, how it is read from each source, and what is refused. Not here: what a setting does. Everything
is resolved when `load` is called, nothing at import.
"""

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

from portway_runtime.endpoints import Endpoint, parse_endpoint

from portway_registry.errors import ConfigError
from portway_registry.store.spec import EmbeddedSpec, StoreSpec, parse_store

ENVIRONMENT_PREFIX: Final = "PORTWAY_REGISTRY_"


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            raise ValueError(f"use a whole number from {least} to {most}")
        return int(text)

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"use one of {', '.join(choices)}")
        return text.lower()

    return parse


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is read and explained."""

    parse: Callable[[str], Any]
    metavar: str
    help: str


def _file(says: str) -> Setting:
    return Setting(Path, "FILE", says)


_LISTEN: Final = Endpoint("::", 7400)
_MESH_LISTEN: Final = Endpoint("::", 7401)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything `portway-registry serve` can be told; field names are the keys of the file."""

    listen: Annotated[
        Endpoint, Setting(parse_endpoint, "HOST:PORT", "where clients and operators are served (TLS)")
    ] = _LISTEN
    mesh_listen: Annotated[Endpoint, Setting(parse_endpoint, "HOST:PORT", "where nodes are served (mutual TLS)")] = (
        _MESH_LISTEN
    )
    tls_cert: Annotated[Path | None, _file("certificate (PEM) of the port of clients and operators; needed")] = None
    tls_key: Annotated[Path | None, _file("its private key (PEM); needed")] = None
    mesh_tls_cert: Annotated[
        Path | None,
        _file(
            "certificate (PEM) for nodes; needed only with a --cluster-ca without its key that --tls-cert is not from"
        ),
    ] = None
    mesh_tls_key: Annotated[Path | None, _file("its private key (PEM)")] = None
    cluster_ca: Annotated[
        Path | None, _file("a CA of your own that nodes' certificates are from (PEM); by default one kept in the store")
    ] = None
    cluster_ca_key: Annotated[
        Path | None, _file("its private key (PEM): the registry makes nodes' certificates with it")
    ] = None
    node_certificate_seconds: Annotated[
        int,
        Setting(_whole(2, 31_536_000), "N", "how long a node's certificate is good that the registry makes"),
    ] = 172_800
    store: Annotated[str, Setting(str, "STORE", "embedded:PATH, embedded:memory, or etcd:URL[,URL...]")] = (
        "embedded:portway-registry.db"
    )
    etcd_ca: Annotated[Path | None, _file("the CA that etcd's certificate is from")] = None
    etcd_cert: Annotated[Path | None, _file("client certificate to show to etcd")] = None
    etcd_key: Annotated[Path | None, _file("its private key")] = None
    etcd_user: Annotated[str | None, Setting(str, "NAME", "user of etcd")] = None
    etcd_password_file: Annotated[Path | None, _file("a file with the user's password")] = None
    geoip: Annotated[Path | None, _file("an .mmdb file in place of the table that comes along")] = None
    admin_token_file: Annotated[
        Path | None,
        _file("where the first start writes the first admin token (by default PATH.admin-token with embedded:PATH)"),
    ] = None
    metrics_listen: Annotated[
        Endpoint | None,
        Setting(parse_endpoint, "HOST:PORT", "where /metrics and /healthz are served (plain HTTP); off by default"),
    ] = None
    ready_file: Annotated[Path | None, _file("written, as JSON with the addresses, when all is served")] = None
    lease_seconds: Annotated[
        int, Setting(_whole(2, 600), "N", "how long a node is known after its last sign of life")
    ] = 15
    max_tunnels: Annotated[
        int, Setting(_whole(1, 1_000_000), "N", "tunnels that a token may have which names no number")
    ] = 100
    check_addresses: Annotated[
        str,
        Setting(
            _one_of("yes", "no"),
            "YES",
            "send clients to a node once its advertised address was reached from another node or the registry; no: "
            "where clients reach nodes and these do not",
        ),
    ] = "yes"
    log_format: Annotated[str, Setting(_one_of("text", "json"), "FORM", "text or json")] = "text"
    log_level: Annotated[
        str,
        Setting(_one_of("debug", "info", "warning", "error"), "LEVEL", "debug, info, warning or error"),
    ] = "info"

    def store_spec(self) -> StoreSpec:
        """The store that is meant. Raises ConfigError."""
        return parse_store(
            self.store,
            ca=self.etcd_ca,
            certificate=self.etcd_cert,
            key=self.etcd_key,
            user=self.etcd_user,
            password_file=self.etcd_password_file,
        )

    def first_admin_token_file(self) -> Path | None:
        """Where the first admin token goes; None when nobody said and there is no folder of our own."""
        if self.admin_token_file is not None:
            return self.admin_token_file
        spec = self.store_spec()
        if isinstance(spec, EmbeddedSpec) and spec.path is not None:
            return spec.path.with_name(f"{spec.path.name}.admin-token")
        return None


def settings() -> dict[str, Setting]:
    """Each setting by the name of its field."""
    hints = get_type_hints(Config, include_extras=True)
    return {one.name: hints[one.name].__metadata__[0] for one in fields(Config)}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    return ENVIRONMENT_PREFIX + name.upper()


def load(flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None = None) -> Config:
    """The settings from all sources; `flags` are by field name. Raises ConfigError.

    The file is the one given, else the one that PORTWAY_REGISTRY_CONFIG names, else none.
    """
    known = settings()
    texts: dict[str, tuple[str, str]] = {}
    path = file or (Path(environment[variable("config")]) if environment.get(variable("config")) else None)
    if path is not None:
        for name, value in _read(path).items():
            _check_known(name, known, f"{path}: unknown key {name!r}")
            texts[name] = (f"{path}: {name}", _as_text(path, name, value))
    for name in known:
        if environment.get(variable(name)):
            texts[name] = (variable(name), environment[variable(name)])
        if name in flags:
            texts[name] = (flag(name), flags[name])
    _check_environment(environment, known)
    values = {}
    for name, (source, text) in texts.items():
        try:
            values[name] = known[name].parse(text)
        except ValueError as error:
            raise ConfigError(f"{source} = {text!r}: {error}") from None
    config = Config(**values)
    config.store_spec()
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def _as_text(path: Path, name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ConfigError(f"{path}: {name} must be a text or a whole number")
    return str(value)


def _check_known(name: str, known: Mapping[str, object], problem: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
        raise ConfigError(problem + hint)


def _check_environment(environment: Mapping[str, str], known: Mapping[str, object]) -> None:
    """Refuse what looks misspelt. The rest is let be: Kubernetes sets PORTWAY_REGISTRY_SERVICE_HOST and the like."""
    for name in environment:
        key = name.removeprefix(ENVIRONMENT_PREFIX).lower()
        if name.startswith(ENVIRONMENT_PREFIX) and key not in known and key != "config":
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
            if close:
                raise ConfigError(f"unknown variable {name}; did you mean {variable(close[0])}?")

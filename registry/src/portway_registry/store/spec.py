"""Which store to use: a value, and how it is read from the settings. Not here: opening one."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from portway_runtime.address_scopes import is_loopback

from portway_registry.errors import ConfigError

_FORMS = "use embedded:PATH, embedded:memory or etcd:http(s)://HOST:PORT[,http(s)://HOST:PORT...]"
_DEFAULT_PORT = 2379  # etcd's client port, as IANA has it


@dataclass(frozen=True, slots=True)
class EmbeddedSpec:
    """A store inside this process, in the SQLite file `path`; with None it is in memory only."""

    path: Path | None


@dataclass(frozen=True, slots=True)
class EtcdSpec:
    """An etcd v3 cluster: `endpoints` are HOST:PORT (IPv6 in brackets), tried in turn."""

    endpoints: tuple[str, ...]
    secure: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None

    @property
    def exposed(self) -> tuple[str, ...]:
        """The endpoints that are spoken to without TLS and are not on this machine."""
        return () if self.secure else tuple(one for one in self.endpoints if not _on_loopback(one))


StoreSpec = EmbeddedSpec | EtcdSpec


def parse_store(
    text: str,
    *,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    user: str | None = None,
    password_file: Path | None = None,
) -> StoreSpec:
    """Read a store's specification; the keywords are the --etcd-... settings. Raises ConfigError."""
    kind, colon, rest = text.partition(":")
    given = {
        "--etcd-ca": ca,
        "--etcd-cert": certificate,
        "--etcd-key": key,
        "--etcd-user": user,
        "--etcd-password-file": password_file,
    }
    if kind == "embedded" and colon:
        unfit = [name for name, value in given.items() if value is not None]
        if unfit:
            raise ConfigError(f"{', '.join(unfit)} cannot be used with the embedded store: use etcd:URL with them")
        return _parse_embedded(rest)
    if kind != "etcd" or not colon:
        raise ConfigError(f"store {text!r} is not known: {_FORMS}")
    endpoints, secure = _parse_endpoints(rest)
    if not secure and (ca or certificate or key):
        raise ConfigError("--etcd-ca, --etcd-cert and --etcd-key need https:// endpoints")
    if (certificate is None) != (key is None):
        raise ConfigError("--etcd-cert and --etcd-key go together: give both or neither")
    if (user is None) != (password_file is None):
        raise ConfigError("--etcd-user and --etcd-password-file go together: give both or neither")
    return EtcdSpec(endpoints, secure, ca, certificate, key, user, password_file)


def _on_loopback(endpoint: str) -> bool:
    return is_loopback(endpoint.rpartition(":")[0].strip("[]"))


def _parse_embedded(rest: str) -> EmbeddedSpec:
    if not rest:
        raise ConfigError("embedded: names no file: use embedded:PATH, or embedded:memory to keep nothing")
    return EmbeddedSpec(None if rest == "memory" else Path(rest))


def _parse_endpoints(rest: str) -> tuple[tuple[str, ...], bool]:
    """The endpoints as HOST:PORT, and whether they speak TLS (all or none)."""
    endpoints: list[str] = []
    schemes = set()
    for url in (part.strip() for part in rest.split(",")):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"an etcd endpoint is not a URL: {_FORMS}")
        if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None:
            raise ConfigError(f"etcd endpoint {parts.hostname}: a URL of scheme, host and port alone is wanted")
        try:
            port = parts.port or _DEFAULT_PORT
        except ValueError:
            raise ConfigError(f"etcd endpoint {parts.hostname}: the port is not a number from 1 to 65535") from None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        endpoints.append(f"{host}:{port}")
        schemes.add(parts.scheme)
    if len(schemes) > 1:
        raise ConfigError("etcd endpoints mix http and https: use one of them for all")
    if len(set(endpoints)) < len(endpoints):
        raise ConfigError("an etcd endpoint is named twice: name each once")
    return tuple(endpoints), schemes == {"https"}

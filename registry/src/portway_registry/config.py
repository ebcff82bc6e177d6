"""The registry's settings: defaults < file < environment < flags.

Here: which settings there are, how each is read, and what is refused. Not here: what a setting does. Everything is
resolved when `load` is called, nothing at import.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_runtime.address_scopes import Scope, expected_scopes
from portway_runtime.balancers import Network, parse_network
from portway_runtime.certificates import NamedFile
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.errors import SettingsError
from portway_runtime.settings import CONFIG, Setting, SettingTable, flag, one_of, whole_number

from portway_registry.errors import ConfigError
from portway_registry.names import check_domain, names_a_tunnel
from portway_registry.store.spec import EmbeddedSpec, StoreSpec, parse_store

_LISTEN: Final = Endpoint("::", 7400)
_MESH_LISTEN: Final = Endpoint("::", 7401)
_ADDRESS: Final = "HOST:PORT"
_EVERY_ADDRESS: Final = ("0.0.0.0", "::")
_FILE: Final = "FILE"


def _listen_address(text: str) -> Endpoint:
    """As parse_endpoint, but an IPv6 address may also be given without brackets, as in :::7400."""
    host, _, port = text.rpartition(":")
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return parse_endpoint(text)
    return parse_endpoint(f"[{host}]:{port}")


def _advertised_address(text: str) -> Endpoint:
    """As parse_endpoint; without a port it is 0, which stands for the port that is listened on."""
    return parse_endpoint(text, default_port=0)


def _https_url(text: str) -> str:
    if not text.startswith("https://") or len(text) <= len("https://") or not text.isprintable() or " " in text:
        raise ValueError("use a URL that begins with https://")
    return text


def _dialled_address(text: str) -> Endpoint:
    address = parse_endpoint(text)
    if not address.port or address.host in _EVERY_ADDRESS:
        raise ValueError("name a host and a port that can be dialled, such as registry.example.com:7401")
    return address


SETTINGS: Final = SettingTable(
    "portway-registry serve",
    "PORTWAY_REGISTRY_",
    (
        Setting("listen", _listen_address, "address to serve clients and operators at (TLS)", _ADDRESS),
        Setting("mesh_listen", _listen_address, "address to serve nodes at (mutual TLS)", _ADDRESS),
        Setting(
            "mesh_advertise",
            _dialled_address,
            "where nodes reach --mesh-listen, which those that join by `portway-server join` are told; several for "
            "several addresses",
            _ADDRESS,
            repeatable=True,
        ),
        Setting(
            "admin_listen",
            _listen_address,
            "address to serve operators at (TLS), who are then not served at --listen; by default they are",
            _ADDRESS,
        ),
        Setting(
            "advertise",
            _advertised_address,
            "where nodes reach --listen, to pass connections on that come to them for the registry; by default "
            "--listen, or this machine's address where that is every address",
            _ADDRESS,
        ),
        Setting(
            "registry_name",
            check_domain,
            "the name by which clients and operators reach the registry at any node's public port, as NAME:443; by "
            "default --domain. The certificate of --listen is to hold it",
            "NAME",
        ),
        Setting(
            "tls_cert",
            Path,
            "certificate (PEM) of the port for clients and operators; required without --acme-directory",
            _FILE,
        ),
        Setting("tls_key", Path, "its private key (PEM)", _FILE),
        Setting(
            "mesh_tls_cert",
            Path,
            "certificate (PEM) of the port for nodes; needed only with a --cluster-ca without its key that did not "
            "issue --tls-cert",
            _FILE,
        ),
        Setting("mesh_tls_key", Path, "its private key (PEM)", _FILE),
        Setting(
            "cluster_ca",
            Path,
            "a CA of your own (PEM) that issues nodes' certificates; by default one is kept in the store",
            _FILE,
        ),
        Setting(
            "cluster_ca_key", Path, "its private key (PEM), with which the registry issues nodes' certificates", _FILE
        ),
        Setting(
            "node_certificate_seconds",
            whole_number(2, 31_536_000),
            "seconds that a node's certificate issued by the registry is valid",
            "N",
        ),
        Setting(
            "domain",
            check_domain,
            "the domain of the cluster's tunnels; a node that serves another one is refused. Without it each node's "
            "own word counts",
            "DOMAIN",
        ),
        Setting(
            "acme_directory",
            _https_url,
            "the ACME server from which certificates for --registry-name and for all regions are obtained, whose terms "
            "of service you agree to with this, such as https://acme-v02.api.letsencrypt.org/directory; needs --domain",
            "URL",
        ),
        Setting("acme_email", str, "an address for the ACME server's account", "ADDRESS"),
        Setting("acme_ca", Path, "the CA (PEM) of the ACME server's own certificate; by default the usual ones", _FILE),
        Setting("acme_eab_key_id", str, "the key id of an external account binding", "ID"),
        Setting("acme_eab_key_file", Path, "a file with its HMAC key (base64url)", _FILE),
        Setting(
            "acme_key_file",
            Path,
            "the file of the key that encrypts private keys in the store; made when missing, and the same for each "
            "registry (by default PATH.acme-key with embedded:PATH)",
            _FILE,
        ),
        Setting("store", str, "embedded:PATH, embedded:memory, or etcd:URL[,URL...]", "STORE"),
        Setting("etcd_ca", Path, "the CA (PEM) that issued etcd's certificate", _FILE),
        Setting("etcd_cert", Path, "client certificate (PEM) for etcd", _FILE),
        Setting("etcd_key", Path, "its private key (PEM)", _FILE),
        Setting("etcd_user", str, "user name for etcd", "NAME"),
        Setting("etcd_password_file", Path, "a file with the user's password", _FILE),
        Setting("geoip", Path, "an .mmdb file to locate clients by, in place of the embedded table", _FILE),
        Setting(
            "admin_token_file",
            Path,
            "file to which the first start writes the first admin token (by default PATH.admin-token with "
            "embedded:PATH)",
            _FILE,
        ),
        Setting(
            "backup_dir",
            Path,
            "folder to which a back-up of the store is written each day, with the cluster's private keys, for the "
            "first time an hour after the cluster was made; the newest 14 are kept. Off by default",
            "DIR",
        ),
        Setting(
            "metrics_listen",
            _listen_address,
            "address to serve /metrics and /healthz at (plain HTTP); off by default",
            _ADDRESS,
        ),
        Setting("ready_file", Path, "file to write the addresses to, as JSON, once all ports are served", _FILE),
        Setting(
            "lease_seconds", whole_number(2, 600), "seconds without a sign of life after which a node is dropped", "N"
        ),
        Setting(
            "max_tunnels",
            whole_number(1, 1_000_000),
            "tunnels that a tenant may have at once unless `portway-admin tenant set-quota` sets a number for it",
            "N",
        ),
        Setting(
            "max_connections",
            whole_number(4, 1_000_000),
            "connections with known callers that each port holds, and a quarter of it of strangers'; fewer where "
            "descriptors do not suffice (4.3 for each)",
            "N",
        ),
        Setting(
            "check_addresses",
            one_of("yes", "no"),
            "yes: send clients to a node only after its advertised address was reached from another node or the "
            "registry; no: for networks in which clients reach the nodes but these do not",
            "YES",
        ),
        Setting(
            "check_private_addresses",
            one_of("auto", "yes", "no"),
            "whether to dial advertised addresses that are private or of the loopback, on a node's word; auto: those "
            "of the kind that --listen or --mesh-listen is",
            "AUTO",
        ),
        Setting(
            "proxy_protocol_from",
            parse_network,
            "a load balancer in front of --listen, or a network of them: their connections have to begin with a PROXY "
            "header, which says whose they are; once for each",
            "CIDR",
            repeatable=True,
        ),
        Setting("log_format", one_of("text", "json"), "text or json", "FORM"),
        Setting("log_level", one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "LEVEL"),
    ),
    empty_unsets=True,
)


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of `portway-registry serve`. Each field is described by the setting of the same name in SETTINGS."""

    listen: Endpoint = _LISTEN
    mesh_listen: Endpoint = _MESH_LISTEN
    mesh_advertise: tuple[Endpoint, ...] = ()
    admin_listen: Endpoint | None = None
    advertise: Endpoint | None = None
    registry_name: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    mesh_tls_cert: Path | None = None
    mesh_tls_key: Path | None = None
    cluster_ca: Path | None = None
    cluster_ca_key: Path | None = None
    node_certificate_seconds: int = 172_800
    domain: str | None = None
    acme_directory: str | None = None
    acme_email: str | None = None
    acme_ca: Path | None = None
    acme_eab_key_id: str | None = None
    acme_eab_key_file: Path | None = None
    acme_key_file: Path | None = None
    store: str = "embedded:portway-registry.db"
    etcd_ca: Path | None = None
    etcd_cert: Path | None = None
    etcd_key: Path | None = None
    etcd_user: str | None = None
    etcd_password_file: Path | None = None
    geoip: Path | None = None
    admin_token_file: Path | None = None
    backup_dir: Path | None = None
    metrics_listen: Endpoint | None = None
    ready_file: Path | None = None
    lease_seconds: int = 15
    max_tunnels: int = 100
    max_connections: int = 4096
    check_addresses: str = "yes"
    check_private_addresses: str = "auto"
    proxy_protocol_from: tuple[Network, ...] = ()
    log_format: str = "text"
    log_level: str = "info"

    @property
    def called(self) -> str:
        """The registry's name at nodes' public ports; "" for none."""
        return self.registry_name or self.domain or ""

    def store_spec(self) -> StoreSpec:
        """Which store to use. Raises ConfigError."""
        return parse_store(
            self.store,
            ca=self.etcd_ca,
            certificate=self.etcd_cert,
            key=self.etcd_key,
            user=self.etcd_user,
            password_file=self.etcd_password_file,
        )

    def dialled_scopes(self) -> frozenset[Scope]:
        """The scopes of advertised addresses that may be dialled."""
        if self.check_private_addresses == "yes":
            return frozenset(Scope)
        if self.check_private_addresses == "no":
            return frozenset({Scope.GLOBAL})
        return expected_scopes((self.listen.host, self.mesh_listen.host))

    def first_admin_token_file(self) -> Path | None:
        """The file for the first admin token; None when the settings name none and the store has no file either."""
        if self.admin_token_file is not None:
            return self.admin_token_file
        spec = self.store_spec()
        if isinstance(spec, EmbeddedSpec) and spec.path is not None:
            return spec.path.with_name(f"{spec.path.name}.admin-token")
        return None

    def wrapping_key_file(self) -> Path:
        """The file of the key that wraps private keys. Raises ConfigError when the settings name none and the store has
        no file either."""
        if self.acme_key_file is not None:
            return self.acme_key_file
        spec = self.store_spec()
        if isinstance(spec, EmbeddedSpec) and spec.path is not None:
            return spec.path.with_name(f"{spec.path.name}.acme-key")
        raise ConfigError("--acme-key-file FILE is required with --acme-directory: the same file for each registry")

    def check_acme(self) -> None:
        """Raise ConfigError for settings of ACME that cannot work."""
        name, domain = self.registry_name, self.domain
        if name is not None and domain is not None and names_a_tunnel(name, domain):
            raise ConfigError(f"--registry-name {name} may be a tunnel's name: choose one above the regions")
        if self.acme_directory is None:
            for key in ("acme_email", "acme_ca", "acme_eab_key_id", "acme_eab_key_file"):
                if getattr(self, key) is not None:
                    raise ConfigError(
                        f"{flag(key)} is for an ACME server, and none is named: --acme-directory "
                        "https://acme-v02.api.letsencrypt.org/directory is Let's Encrypt's"
                    )
            return
        if domain is None:
            raise ConfigError("--domain is required with --acme-directory: certificates are for names below it")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key go together: give both, or neither to have one obtained")
        self.wrapping_key_file()

    def required_file(self, key: str) -> NamedFile:
        """The file of a setting that must be given, named by its flag in errors. Raises ConfigError."""
        path: Path | None = getattr(self, key)
        if path is None:
            raise ConfigError(f"{flag(key)} FILE is required (`portway-admin pki init` makes the files)")
        return NamedFile(path, f"{flag(key)} {path}")


def load(flags: Mapping[str, str], environment: Mapping[str, str], file: Path | None = None) -> Config:
    """The settings from all sources; `flags` are by field name. Raises ConfigError.

    The file is `file`, else the one that PORTWAY_REGISTRY_CONFIG names, else none.
    """
    try:
        values = SETTINGS.load({**flags, CONFIG: file}, environment)
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    config = Config(**values)
    config.store_spec()
    return config

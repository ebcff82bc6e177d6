"""What the operator asks for when a machine is set up, checked as far as it can be without looking at the machine."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from portway_registry.names import check_domain, check_node, check_region

from portway_server.errors import SetupRefused

CONFIG_DIR: Final = Path("/etc/portway")
STATE_DIR: Final = Path("/var/lib")


@dataclass(frozen=True, slots=True)
class Etcd:
    """An etcd in place of the embedded store; `urls` is empty for the latter."""

    urls: str = ""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Acme:
    """Where certificates are from. Empty values are the registry's defaults."""

    email: str | None = None
    directory: str | None = None
    ca: Path | None = None
    eab_key_id: str | None = None
    eab_key_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a machine."""

    public: int = 443
    registry: int = 7400
    mesh: int = 7401
    dns: int = 53


def _is_registrys(domain: str) -> bool:
    """Whether a domain registry sells the names below it, as those below co.uk."""
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(accept_unknown=False, only_icann=True).is_public(domain)


@dataclass(frozen=True, slots=True)
class Wishes:
    """A machine as its operator wants it. Raises SetupRefused for names that cannot work."""

    domain: str
    region: str
    name: str = ""
    addresses: tuple[str, ...] = ()
    latitude: float | None = None
    longitude: float | None = None
    config_dir: Path = CONFIG_DIR
    state_dir: Path = STATE_DIR
    etcd: Etcd = Etcd()
    acme: Acme = Acme()
    certificates: tuple[tuple[Path, Path], ...] = ()
    dns: bool = True
    ports: Ports = Ports()
    separate_users: bool = True
    registry: bool = True  # this machine runs one
    registries: tuple[str, ...] = field(default=())  # mesh addresses of those of other machines

    def __post_init__(self) -> None:
        try:
            check_domain(self.domain)
            check_region(self.region)
            if self.name:
                check_node(self.name)
        except ValueError as error:
            raise SetupRefused(str(error)) from None
        if "." not in self.domain or _is_registrys(self.domain):
            raise SetupRefused(
                f"names right below {self.domain} are other people's: name a domain of yours, such as tun.example.com, "
                "that is used for nothing else"
            )
        if (self.latitude is None) != (self.longitude is None):
            raise SetupRefused("--latitude and --longitude go together: give both or neither")

    @property
    def zone(self) -> str:
        """`<region>.<domain>`."""
        return f"{self.region}.{self.domain}"

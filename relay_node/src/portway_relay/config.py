"""What a node is told, as values: names, addresses, files, limits.

Here: the shapes and the rules that each value and their combination must keep. Not here: where values come from
(settings.py).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from portway_proto.wire.labels import LABEL_LENGTH
from portway_runtime.endpoints import Endpoint
from portway_runtime.identities import DNS_LABEL, node_name

from portway_relay.errors import ConfigError

_EPHEMERAL_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EVERY_ADDRESS: Final = ("", "0.0.0.0", "::")
_MAX_NAME: Final = 253


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports from `first` to `last`, both included."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, port: int) -> bool:
        return self.first <= port <= self.last

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Bounds and time limits; times in seconds."""

    max_sessions: int = 5_000  # with 8 lanes each they use up the descriptors of a well-configured machine
    sessions_per_second: int = 200  # new ones; each brings handshakes of its lanes, proofs of its tunnels, and news
    session_burst: int = 400  # at once: a node's few hundred clients come over without waiting when it dies
    max_tunnels_per_session: int = 1_000  # an order of magnitude above any program that was seen
    max_lanes: int = 4_096  # data lanes of one session: so many visits of one client at once
    max_visits_per_tunnel: int = 4_096  # no more can have a lane; the others would only wait
    binds_per_second: int = 50  # a proof costs up to 2 ms of hashing
    bind_burst: int = 1_000  # a program that comes back with all its tunnels binds them at once
    proof_hashes_per_second: int = 200_000  # for one token, for one node: a twentieth of a core; a proof takes <= 4,096
    proof_hash_burst: int = 1_000_000  # at once, 0.25 s: 10,000 tunnels of a node, each bound a hundred times
    max_greetings: int = 1_024  # lanes between accept and their first frame: memory, and a second or two of handshakes
    max_greetings_per_address: int = 256  # of one address: a cluster of clients behind one comes back in a few rounds
    max_half_open: int = 4_096  # connections whose ClientHello is still awaited
    max_half_open_per_address: int = 256  # of one address: an office's 100 a second, each a lost packet late
    accepts_per_turn: int = 16  # in one turn of the loop, a millisecond of it: visits that run move in between
    hellos_per_turn: int = 8  # acted upon in one turn of the loop: a handshake each is begun, about 5 ms in all
    hello_time: float = 10.0  # for a whole ClientHello; a slow mobile link with a lost packet needs 3
    greeting_time: float = 10.0  # TLS handshake and first frame of a link lane, each
    connections_per_second: int = 1_000  # new ones from one address, a tenth of a core; a large office needs 100
    connection_burst: int = 2_000
    unknown_names_per_second: int = 50  # that one address may have looked up in vain: it must not use up everybody's
    unknown_name_burst: int = 100  # a page with many names of tunnels that are gone
    resume_time: float = 60.0  # a lost session can be resumed for so long
    port_rest: float = 60.0  # a released raw port serves nobody else for so long: visitors may still hold it
    drain_grace: float = 60.0  # visits in progress may finish after their tunnel moved to another node
    leave_grace: float = 5.0  # visits in progress may finish after the client let go of their tunnel
    first_bytes_time: float = 2.0  # to see whether a refused visitor speaks HTTP (and can be told)
    lookups_per_second: int = 500  # names that are not known here; many go to a registry in one call
    lookup_time: float = 3.0  # somebody must have answered by then where a name is
    lane_wait: float = 10.0  # a visitor waits so long for a lane
    stop_grace: float = 10.0  # clients attach elsewhere and visits in progress finish when the node stops


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node. `check` has been called on every one that settings.py returns."""

    name: str
    region: str
    domain: str
    listen: Endpoint
    registry: tuple[Endpoint, ...]
    cluster_ca: Path
    cert: Path
    key: Path
    tls_cert: tuple[Path, ...]
    tls_key: tuple[Path, ...]
    advertise: Endpoint | None = None
    public_port: int = 0
    raw_listen: str | None = None
    raw_ports: PortRange = PortRange(20_000, 29_999)
    raw_host: str | None = None
    join: str | None = None
    state_dir: Path | None = None
    registry_ca: Path | None = None
    admin_listen: Endpoint | None = None
    latitude: float = 0.0
    longitude: float = 0.0
    ready_file: Path | None = None
    log_format: str = "text"
    log_level: str = "info"
    limits: NodeLimits = field(default_factory=NodeLimits)

    @property
    def server_name(self) -> str:
        """The name in the node's cluster certificate, and the SNI of its clients' lanes."""
        return node_name(self.name)

    @property
    def zone(self) -> str:
        """What follows the label in this node's host names, without the dot between."""
        return f"{self.region}.{self.domain}"

    def check(self) -> None:
        """Raise ConfigError for what cannot work, before anything is started."""
        for what, name in (("--name", self.name), ("--region", self.region)):
            if not DNS_LABEL.fullmatch(name):
                raise ConfigError(f"{what} {name!r}: use lower-case letters, digits and inner dashes, 63 at the most")
        if not all(DNS_LABEL.fullmatch(part) for part in self.domain.split(".")):
            raise ConfigError(f"--domain {self.domain!r}: use a DNS name such as tunnels.example.com, in lower case")
        if LABEL_LENGTH + 1 + len(self.zone) > _MAX_NAME:
            raise ConfigError(
                f"--region and --domain are too long: a label of {LABEL_LENGTH} characters and .{self.zone} would be "
                f"more than the {_MAX_NAME} that DNS allows"
            )
        self._check_addresses()
        if len(self.tls_cert) != len(self.tls_key):
            raise ConfigError(
                f"--tls-cert is given {len(self.tls_cert)} times and --tls-key {len(self.tls_key)} times: give each "
                "certificate its key, in the same order"
            )
        if not -90 <= self.latitude <= 90 or not -180 <= self.longitude <= 180:
            raise ConfigError(f"--latitude {self.latitude} --longitude {self.longitude}: not a place on Earth")
        self._check_raw_ports()

    def _check_addresses(self) -> None:
        if not self.registry:
            raise ConfigError("--registry is missing: name the mesh address of at least one registry, as host:port")
        for registry in self.registry:
            if registry.host in _EVERY_ADDRESS or registry.port == 0:
                raise ConfigError(f"--registry {registry}: name a host and a port that can be dialled")
        if self.advertise is None and self.listen.host in _EVERY_ADDRESS:
            raise ConfigError(
                f"--advertise is missing: --listen {self.listen} means every address of this machine, and clients "
                "must be told one that they can reach, such as --advertise relay-1.example.com:443"
            )
        if self.advertise is not None and self.advertise.host in _EVERY_ADDRESS:
            raise ConfigError(
                f"--advertise {self.advertise}: name a host that clients can reach, such as relay-1.example.com:443"
            )

    def _check_raw_ports(self) -> None:
        try:
            first, last = (int(text) for text in _EPHEMERAL_PORTS.read_text().split())
        except (OSError, ValueError):
            return
        if self.raw_ports.first <= last and first <= self.raw_ports.last:
            around = (PortRange(1024, first - 1), PortRange(last + 1, 65_535))
            free = [ports for ports in around if ports.first <= ports.last]
            choice = f"choose a range within {max(free, key=len)}, or change the system's" if free else "change it"
            raise ConfigError(
                f"--raw-ports {self.raw_ports} overlaps {first}-{last}, the ports that this system gives to outgoing "
                f"connections ({_EPHEMERAL_PORTS}): {choice}"
            )

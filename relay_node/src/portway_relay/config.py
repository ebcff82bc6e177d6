"""The configuration of a node as values: names, addresses, files, limits.

Here: the fields, their defaults, and the rules between them. Not here: flags, environment and file (settings.py).
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from portway_proto.records import ip_addresses
from portway_proto.wire.labels import LABEL_LENGTH
from portway_runtime.arrivals import ArrivalLimits
from portway_runtime.balancers import Network
from portway_runtime.endpoints import Endpoint, is_host
from portway_runtime.identities import DNS_LABEL, node_name

from portway_relay.errors import ConfigError

T = TypeVar("T")

# The key of a limit's explanation in the metadata of its field.
HELP: Final = "help"
# The key of the least value of such a field.
LEAST: Final = "least"
_EPHEMERAL_PORTS: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
# The folder, in a node's state folder, of the certificates that registries handed to it.
ZONES: Final = "zones"
# Files beside a node's certificate in that folder: the addresses of registries that registries have named, and what
# registries said last.
REGISTRIES: Final = "registries"
REGISTRY_SAID: Final = "registry-said"
_EVERY_ADDRESS: Final = ("", "0.0.0.0", "::")
_MAX_NAME: Final = 253
_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443


class HttpListen(Enum):
    """Where plain HTTP is redirected, when no address is given."""

    DEFAULT = "default"  # at port 80 beside a public port 443, if that can be listened on
    OFF = "off"


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


def _limit(default: T, explanation: str, *, least: int = 1) -> T:
    """A field of NodeLimits; `explanation` is the only one, here and in the command's --help."""
    limit: T = field(default=default, metadata={HELP: explanation, LEAST: least})
    return limit


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """Bounds and time limits; times in seconds."""

    # Sessions and their tunnels.
    max_sessions: int = _limit(
        5_000, "client sessions; with 8 lanes each they use the descriptors of a well-configured machine"
    )
    max_sessions_per_token: int = _limit(
        2_500, "client sessions of one token, half of all; at most 16 more than its quota of tunnels, if it has one"
    )
    sessions_per_second: int = _limit(
        200,
        "new client sessions per second, each with the handshakes of its lanes, the claims of its tunnels and "
        "announcements; above it clients get a time to retry",
    )
    session_burst: int = _limit(
        400, "new client sessions at once; when a node dies, its few hundred clients come over without waiting"
    )
    max_tunnels_per_session: int = _limit(1_000, "tunnels of one session; ten times those of any program seen so far")
    max_lanes: int = _limit(4_096, "data lanes of one session: one for each visit in progress")
    max_lanes_per_token: int = _limit(8_192, "data lanes of all sessions of one token: those of 1,000 idle sessions")
    max_visits_per_tunnel: int = _limit(4_096, "visits of one tunnel in progress; more could not have a lane")
    binds_per_second: int = _limit(50, "tunnels that one session may open per second")
    bind_burst: int = _limit(1_000, "tunnels that one session may open at once, as when it comes back with all of them")
    lane_frames_per_second: int = _limit(
        200,
        "frames per second that a client may send on one control lane, each KiB of them as one more: twice "
        "what opening 50 tunnels per second and closing them takes; above it the lane waits",
    )
    lane_frame_burst: int = _limit(
        4_000, "the same at once: a client that comes back with 1,000 tunnels and their tickets sends half of it"
    )
    token_frames_per_second: int = _limit(
        1_000, "the same of all sessions of one token: a twentieth of a core when each request is refused"
    )
    token_frame_burst: int = _limit(
        40_000, "the same at once: 10,000 tunnels in 200 sessions come over from another node"
    )
    signature_checks_per_second: int = _limit(
        500, "signatures of one token, or of one node, that are checked per second: a twentieth of a core"
    )
    signature_check_burst: int = _limit(
        25_000,
        "the same at once, 2.5 s of work: 10,000 tunnels, each with a ticket, come over from another node",
    )
    # Connections whose purpose or owner is not known yet.
    max_greetings: int = _limit(
        1_024,
        "client lanes whose first frame is awaited, and as many handshakes of nodes: memory, and a second or two of "
        "handshakes",
    )
    max_greetings_per_address: int = _limit(
        256, "the same, of one address; many clients behind one address come back in a few rounds"
    )
    max_half_open: int = _limit(
        4_096, "connections whose ClientHello is awaited; for a new one the oldest of the prefix with most is evicted"
    )
    max_half_open_per_address: int = _limit(
        256, "the same, of one address; an office's 100 connections per second, each with a lost packet"
    )
    accepts_per_turn: int = _limit(16, "connections accepted in one turn of the event loop, about 1 ms")
    hellos_per_turn: int = _limit(8, "handshakes begun in one turn of the event loop, about 5 ms")
    hello_time: float = _limit(10.0, "seconds for a whole ClientHello; a slow mobile link needs 3 after a lost packet")
    greeting_time: float = _limit(10.0, "seconds for a client lane's handshake, and again for its first frame")
    connections_per_second: int = _limit(
        1_000, "new connections per second of one address (IPv6: one /64), a tenth of a core; a large office needs 100"
    )
    connection_burst: int = _limit(2_000, "new connections at once of one address")
    unfinished_handshakes_per_second: int = _limit(
        150,
        "TLS handshakes per second that peers begin and do not complete, and twice that many in progress; the "
        "prefixes of addresses share them: a tenth of a core",
    )
    unknown_names_per_second: int = _limit(
        50,
        "names per second that one address may have looked up without success: it must not use up the look-ups of all "
        "others",
    )
    unknown_name_burst: int = _limit(100, "the same at once: a page with many names of closed tunnels")
    # DNS.
    dns_loop_percent: int = _limit(
        20,
        "percent of the event loop's time that DNS queries may take while there are visits; what is above waits in the "
        "system's queue, or is lost there",
    )
    dns_answers_per_second: int = _limit(
        500,
        "DNS answers over UDP per second to one network (IPv4: a /24, IPv6: a /48), above which it is asked to come "
        "over TCP; the busiest resolvers ask a tenth of it",
    )
    dns_answer_burst: int = _limit(1_000, "the same at once")
    # Connections for the registry, which are passed on.
    max_passed: int = _limit(
        1_000,
        "connections for the registry that are passed on, of all addresses together; the prefixes of addresses share "
        "them, and they take a quarter of the descriptors at most",
    )
    passed_per_second: int = _limit(
        300,
        "the same, begun per second, and so many at once: a seventh of a core; above it they wait, and prefixes take "
        "turns. A thousand clients that start together wait 2.4 s at most",
    )
    # Memory.
    max_memory_mib: int = _limit(
        0,
        "MiB of memory; above it nothing new is taken, and visits are cut: of the token whose visits hold most. 0 is "
        "half of the machine's memory, or of its cgroup's",
        least=0,
    )
    max_buffered_mib_per_token: int = _limit(
        0,
        "MiB that may wait in the visits of one token once half of the memory is used; those with most are cut. 0 is "
        "an eighth of the memory: 800 visits that do not read in each GiB",
        least=0,
    )
    # Times that something is kept or waited for.
    resume_time: float = _limit(60.0, "seconds that the tunnels of a session without a connection are kept")
    port_rest: float = _limit(60.0, "seconds that a released raw port rests; visitors may still have its address")
    max_resting_ports_per_token: int = _limit(
        32, "raw ports of one token that rest, or its quota of tunnels where that is more; then it gets no new ones"
    )
    drain_grace: float = _limit(60.0, "seconds for visits to finish after a client that was asked to leave has left")
    leave_grace: float = _limit(5.0, "seconds for visits to finish after their client closed the tunnel")
    first_bytes_time: float = _limit(
        2.0, "seconds to wait for the first bytes of a refused visitor, which gets an answer if they are HTTP"
    )
    lookups_per_second: int = _limit(
        500, "names of other nodes' tunnels that are looked up per second; one call asks a registry for many"
    )
    lookup_time: float = _limit(3.0, "seconds to look up one name")
    hearing_time: float = _limit(
        3.0,
        "seconds after its start, and after the first answer of a registry, for which a node lets visitors of unknown "
        "names wait: it may not have heard of their tunnels yet",
        least=0,
    )
    lane_wait: float = _limit(10.0, "seconds that a visitor waits for a lane of the tunnel's client")
    stop_grace: float = _limit(
        10.0,
        "seconds for clients to attach elsewhere and for visits to finish when the node stops, after --lame-duck",
    )
    lame_duck: float = _limit(
        2.0,
        "seconds that a node that stops goes on taking visitors, so that balancers, and DNS servers that look at "
        "/readyz, send them elsewhere; 0 where visitors try a name's next address by themselves",
        least=0,
    )


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node. Those that settings.py returns have passed `check`."""

    name: str
    region: str
    domain: str
    listen: Endpoint
    registry: tuple[Endpoint, ...]
    cluster_ca: Path
    cert: Path
    key: Path
    tls_cert: tuple[Path, ...] = ()
    tls_key: tuple[Path, ...] = ()
    advertise: Endpoint | None = None
    public_port: int = 0
    http_listen: Endpoint | HttpListen = HttpListen.DEFAULT
    public_address: tuple[str, ...] = ()
    dns_listen: tuple[Endpoint, ...] = ()
    dns_other_region: str = "yes"
    geoip: Path | None = None
    raw_listen: str | None = None
    raw_ports: PortRange = PortRange(20_000, 29_999)
    raw_host: str | None = None
    join: str | None = None
    join_file: Path | None = None
    state_dir: Path | None = None
    registry_ca: Path | None = None
    admin_listen: Endpoint | None = None
    proxy_protocol_from: tuple[Network, ...] = ()
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
        """`<region>.<domain>`: what follows the label and a dot in this node's host names."""
        return f"{self.region}.{self.domain}"

    @property
    def public_addresses(self) -> tuple[str, ...]:
        """The IP addresses at which visitors reach this node; empty when the settings name hosts alone."""
        named = [self.listen.host] if self.advertise is None else [self.advertise.host]
        return self.public_address or tuple(ip_addresses(named))

    @property
    def zones_folder(self) -> Path | None:
        """Where certificates from registries are kept over a restart; None for a node without a state folder."""
        return None if self.state_dir is None else self.state_dir / ZONES

    @property
    def registries_file(self) -> Path | None:
        """Where the addresses of registries are kept over a restart; None for a node without a state folder."""
        return None if self.state_dir is None else self.cert.with_name(REGISTRIES)

    @property
    def registry_file(self) -> Path | None:
        """Where what registries said last is kept over a restart, beside the certificate that the node joined for; None
        for a node without a state folder."""
        return None if self.state_dir is None else self.cert.with_name(REGISTRY_SAID)

    @property
    def http_address(self) -> Endpoint | None:
        """Where requests in clear text are redirected to https; None for nowhere."""
        if isinstance(self.http_listen, Endpoint):
            return self.http_listen
        if self.http_listen is HttpListen.OFF or self.listen.port != _HTTPS_PORT:
            return None
        return Endpoint(self.listen.host, _HTTP_PORT)

    @property
    def arrival_limits(self) -> ArrivalLimits:
        """Those of the public port and of the plain HTTP port, each by itself."""
        limits = self.limits
        return ArrivalLimits(
            limits.hello_time, limits.max_half_open, limits.max_half_open_per_address, limits.accepts_per_turn
        )

    def check(self) -> None:
        """Raise ConfigError for values that cannot work, before anything is started."""
        for what, name in (("--name", self.name), ("--region", self.region)):
            if not DNS_LABEL.fullmatch(name):
                raise ConfigError(f"{what} {name!r}: use lower-case letters, digits and inner dashes, at most 63")
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
                "need one that they can reach, such as --advertise relay-1.example.com:443"
            )
        if self.advertise is not None and self.advertise.host in _EVERY_ADDRESS:
            raise ConfigError(
                f"--advertise {self.advertise}: name a host that clients can reach, such as relay-1.example.com:443"
            )
        if self.dns_listen and not self.public_addresses:
            raise ConfigError(
                "--public-address is missing: DNS answers name the IP addresses of this node, and --advertise does not"
            )
        if self.limits.dns_loop_percent > 100:
            raise ConfigError(f"--dns-loop-percent {self.limits.dns_loop_percent}: at most 100")
        if self.raw_host is not None and not is_host(self.raw_host):
            raise ConfigError(
                f"--raw-host {self.raw_host!r}: clients take a DNS name or an IP address, without a port or brackets"
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

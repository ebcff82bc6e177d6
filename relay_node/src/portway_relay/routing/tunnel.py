"""Tunnels that are bound at this node: one as a value, its description for others, and the store by label.

Not here: the rules by which a label is claimed, suspended and released (table.py).
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from portway_carrier.contract import Pool, Visit
from portway_proto.records import InvalidRecord, claimed_options
from portway_proto.v1.lane_pb2 import Failure
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.labels import Label
from portway_proto.wire.statements import Claim, Presence, StatementInvalid, read_claim

from portway_relay.raw_ports.sockets import RawPort

_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Holder(Protocol):
    """A client's session, as the tunnels that it holds see it."""

    @property
    def tenant(self) -> str: ...
    @property
    def token_id(self) -> str: ...
    @property
    def max_tunnels(self) -> int:
        """The most tunnels that its token may have open at once; 0 means no limit."""
        ...

    @property
    def tenant_max_tunnels(self) -> int:
        """The same of all tokens of its tenant together."""
        ...

    @property
    def pool(self) -> Pool: ...

    @property
    def grant_token(self) -> str:
        """The client's newest grant as it was sent."""
        ...

    @property
    def presence(self) -> Presence | None:
        """The latest presence of the session, checked; a session with a tunnel has one."""
        ...

    def tunnel_taken(self, tunnel: "Tunnel", failure: Failure, claim: bytes = b"") -> None:
        """The tunnel was taken from this session, for the reason in `failure`. claim: the one that owns the label."""
        ...


@dataclass(slots=True, eq=False)
class Tunnel:
    """A binding of a label; a Destination. While its client is away it is not `live`: no visitor is routed to it."""

    claim: Claim = field(repr=False)
    holder: Holder = field(repr=False)
    options: TunnelOptions
    max_visits: int
    opened_at_ms: int  # since the Unix epoch
    host: str = ""  # of its URL, as its client says; "" when it says none
    raw: RawPort | None = None
    live: bool = True
    visits: set[Visit] = field(default_factory=set, repr=False)
    ingress_nodes: set[str] = field(default_factory=set)  # other nodes that forwarded visitors of it to this one

    @property
    def label(self) -> Label:
        return self.claim.label

    @property
    def epoch(self) -> int:
        return self.claim.epoch

    @property
    def h2_enabled(self) -> bool:
        return self.options.h2_enabled

    @property
    def pool(self) -> Pool:
        """The data lanes of its client's session."""
        return self.holder.pool

    @property
    def full(self) -> bool:
        """Whether it has as many visits as it may have."""
        return len(self.visits) >= self.max_visits

    def cut_visits(self) -> None:
        """End its visits now."""
        for visit in list(self.visits):
            visit.cut()


@dataclass(frozen=True, slots=True)
class HomeNode:
    """The node that tunnels are bound at, as descriptions name it; `zone` follows the label in host names."""

    name: str
    region: str
    zone: str

    def describe(self, tunnel: Tunnel) -> TunnelInfo:
        """The tunnel as registries and other nodes learn of it: a registry learns from the grant whose it is."""
        return TunnelInfo(
            label=tunnel.label,
            node=self.name,
            region=self.region,
            epoch=tunnel.epoch,
            options=tunnel.options,
            unencrypted_port=tunnel.raw.port if tunnel.raw is not None else 0,
            opened_at_ms=tunnel.opened_at_ms,
            host=self._host(tunnel),
            claim=tunnel.claim.encoded,
            ticket=tunnel.raw.ticket if tunnel.raw is not None else b"",
        )

    def _host(self, tunnel: Tunnel) -> str:
        """The host of its URL, which has the region where it was opened; whatever is no host of its in this domain is
        not shown."""
        label, _, zone = tunnel.host.partition(".")
        region, _, domain = zone.partition(".")
        if label == tunnel.label and domain == self.zone.partition(".")[2] and _REGION.fullmatch(region):
            return tunnel.host
        return f"{tunnel.label}.{self.zone}"


def claim_of(tunnel: TunnelInfo) -> Claim:
    """The claim of a tunnel as another party describes it, unchecked. Raises StatementInvalid for another form, and
    when the description says something else than the claim."""
    claim = read_claim(tunnel.claim)
    if (claim.label, claim.node, claim.epoch) != (tunnel.label, tunnel.node, tunnel.epoch):
        raise StatementInvalid("a tunnel that is not the one of its claim")
    try:
        options = claimed_options(claim.options)
    except InvalidRecord as error:
        raise StatementInvalid(str(error)) from None
    if (options.h2_enabled, options.unencrypted) != (tunnel.options.h2_enabled, tunnel.options.unencrypted):
        raise StatementInvalid("a tunnel with other options than its claim")
    return claim


class HeldTunnels:
    """The tunnels bound at this node, live and suspended, by label. Only the table adds and removes them."""

    def __init__(self) -> None:
        self._tunnels: dict[str, Tunnel] = {}
        self._live_by_tenant: Counter[str] = Counter()
        self._live_by_token: Counter[str] = Counter()

    def __len__(self) -> int:
        """The number of live tunnels."""
        return self._live_by_token.total()

    def get(self, label: str) -> Tunnel | None:
        """The tunnel, live or suspended."""
        return self._tunnels.get(label)

    def live(self, label: str) -> Tunnel | None:
        """The tunnel that visitors of `label` are routed to now."""
        tunnel = self._tunnels.get(label)
        return tunnel if tunnel is not None and tunnel.live else None

    def claim(self, label: str) -> Claim | None:
        """The claim of the tunnel, live or suspended."""
        tunnel = self._tunnels.get(label)
        return None if tunnel is None else tunnel.claim

    def presences(self) -> Iterator[Presence]:
        """The latest presence of each session with a live tunnel."""
        for holder in {id(tunnel.holder): tunnel.holder for tunnel in self.all_live()}.values():
            if holder.presence is not None:
                yield holder.presence

    def all_live(self) -> Iterator[Tunnel]:
        """Every live tunnel."""
        return (tunnel for tunnel in self._tunnels.values() if tunnel.live)

    def live_of_tenant(self, name: str) -> int:
        """The number of live tunnels that this tenant's sessions hold."""
        return self._live_by_tenant[name]

    def live_of_token(self, token_id: str) -> int:
        """The same of one of its tokens."""
        return self._live_by_token[token_id]

    def add(self, tunnel: Tunnel) -> None:
        """Store a live tunnel under a label that has none."""
        self._tunnels[tunnel.label] = tunnel
        self._count(tunnel, 1)

    def remove(self, tunnel: Tunnel) -> None:
        """Remove a stored tunnel; it is not live afterwards."""
        del self._tunnels[tunnel.label]
        self.set_live(tunnel, False)

    def set_live(self, tunnel: Tunnel, live: bool) -> None:
        """Route visitors to a stored tunnel, or no longer."""
        if tunnel.live == live:
            return
        tunnel.live = live
        self._count(tunnel, 1 if live else -1)

    def _count(self, tunnel: Tunnel, change: int) -> None:
        holder = tunnel.holder
        for counts, name in ((self._live_by_tenant, holder.tenant), (self._live_by_token, holder.token_id)):
            counts[name] += change
            if not counts[name]:
                del counts[name]

"""One tunnel as its home node has it. Values and counts alone: the rules are in table.py."""

from dataclasses import dataclass, field
from typing import Protocol

from portway_carrier.contract import Pool, Visit
from portway_proto.v1.lane_pb2 import Failure
from portway_proto.wire.labels import Epoch, Label

from portway_relay.raw_ports.sockets import RawPort


class Holder(Protocol):
    """Who holds tunnels: a client's session."""

    @property
    def tenant(self) -> str: ...
    @property
    def token_id(self) -> str: ...
    @property
    def max_tunnels(self) -> int:
        """How many its token may have; 0 means no limit."""
        ...

    @property
    def pool(self) -> Pool: ...

    def tunnel_taken(self, tunnel: "Tunnel", failure: Failure) -> None:
        """It is no longer the holder's, which did not ask for that."""
        ...


@dataclass(slots=True, eq=False)
class Tunnel:
    """A binding of a label. `live` is False while its holder is away: nobody is routed to it then."""

    label: Label = field(repr=False)
    epoch: Epoch
    proof: bytes = field(repr=False)
    holder: Holder = field(repr=False)
    h2_enabled: bool
    max_visits: int
    opened_at_ms: int
    raw: RawPort | None = None
    live: bool = True
    visits: set[Visit] = field(default_factory=set, repr=False)
    entrances: set[str] = field(default_factory=set)  # other nodes that visitors of it came in at

    @property
    def pool(self) -> Pool:
        """What leads to it."""
        return self.holder.pool

    @property
    def full(self) -> bool:
        return len(self.visits) >= self.max_visits

    def cut_visits(self) -> None:
        for visit in list(self.visits):
            visit.cut()


def short(label: str) -> str:
    """A label as logs show it: the whole of it is the secret in the URL."""
    return f"{label[:4]}…"

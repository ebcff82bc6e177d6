"""A CA of the cluster as operators see it.

Here: its state, and in words who it waits for and who uses it. Not here: how that is found out
(authority_rotation.py).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum


class AuthorityState(Enum):
    """What a CA is used for."""

    ANNOUNCED = "announced"
    ISSUING = "issuing"
    RETIRING = "retiring"


@dataclass(frozen=True, slots=True)
class AuthorityStatus:
    """A CA as operators see it; times in milliseconds since the Unix epoch, 0 for none.

    unaware_*: those that do not trust it: nodes and replicas that live, nodes that are away with a valid certificate,
    nodes whose clients have not been told. used_by_*: those whose certificate is from it. away_until_ms: when the last
    certificate of those that are away ends.
    """

    id: str
    state: AuthorityState
    made_at_ms: int
    ends_at_ms: int
    certificate: bytes
    from_files: bool = False
    unaware_nodes: tuple[str, ...] = ()
    unaware_replicas: tuple[str, ...] = ()
    unaware_away: tuple[str, ...] = ()
    unaware_clients_of: tuple[str, ...] = ()
    used_by_nodes: tuple[str, ...] = ()
    used_by_replicas: tuple[str, ...] = ()
    used_by_away: tuple[str, ...] = ()
    away_until_ms: int = 0

    @property
    def waits_for(self) -> str:
        """Who does not trust it yet, for people; "" for nobody."""
        return "; ".join(
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("nodes", self.unaware_nodes),
                ("registries", self.unaware_replicas),
                ("nodes that are away", self.unaware_away),
                ("clients of", self.unaware_clients_of),
            )
            if names
        )

    @property
    def used_by(self) -> str:
        """Whose certificate is from it, for people; "" for nobody."""
        away = f"nodes that are away, until {_utc(self.away_until_ms)}"
        return "; ".join(
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("nodes", self.used_by_nodes),
                ("registries", self.used_by_replicas),
                (away, self.used_by_away),
            )
            if names
        )


def _utc(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"

"""When this node's certificates end: which there are, and which end makes the node useless.

Not here: the warnings (portway_runtime.expiry), reading and replacing certificates (certificates.py), the renewal of
the node's own (membership/renewal.py).
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from portway_runtime.clocks import UtcNow
from portway_runtime.expiry import ExpiryWarnings, Watched, mark_of

from portway_relay.certificates import LoadedCertificates

NODE: Final = "node"  # what the node's own certificate is called beside those of zones

_REPLACE: Final = "put a new one in its place"
_OBTAINED: Final = "registries obtain it: see `portway-admin certificate list`"
_INVITE: Final = "invite the node anew (`portway-admin node invite`)"


class Expiry:
    """The ends of the certificates in use."""

    def __init__(
        self, certificates: Callable[[], LoadedCertificates], zone: str, *, renewed: bool, now: UtcNow
    ) -> None:
        """zone: the node's own `<region>.<domain>`. renewed: the node renews its own certificate by itself."""
        self._certificates = certificates
        self._zone = zone
        self._renewed = renewed
        self._now = now
        self.warnings = ExpiryWarnings(self._watched, now)

    def ends(self) -> dict[str, datetime]:
        """When each certificate ends, by zone, and by NODE for the node's own."""
        return {name: one.end for name, one in self._watched().items()}

    def zones(self) -> list[str]:
        """The zones whose certificate has not ended, sorted: visitors of their names can be served."""
        now = self._now()
        return sorted(name for name, end in self.ends().items() if name != NODE and end > now)

    def first_end(self) -> datetime | None:
        """When the first certificate ends that somebody has to replace: one that the node or registries renew counts
        when that is overdue. None while all are renewed in time."""
        now = self._now()
        ends = (
            one.end
            for one in self._watched().values()
            if not (one.renewed and mark_of(one.certificate, now, renewed=True) is None)
        )
        return min(ends, default=None)

    def ended(self) -> str:
        """Why nobody can use this node, whose certificates have ended, or which has none for its own names; empty when
        that is not so. The names of another region are served by its own nodes, so that its certificate does not
        count."""
        ends, now = self.ends(), self._now()
        if ends[NODE] <= now:
            return "this node's certificate has ended"
        if self._zone not in ends:
            return f"there is no certificate of *.{self._zone} yet"
        return f"the certificate of *.{self._zone} has ended" if ends[self._zone] <= now else ""

    def _watched(self) -> dict[str, Watched]:
        loaded = self._certificates()
        own = Watched(loaded.node.certificate, _INVITE if self._renewed else _REPLACE, renewed=self._renewed)
        return {NODE: own} | {
            zone: Watched(one.certificate, _OBTAINED, renewed=True)
            if zone in loaded.received
            else Watched(one.certificate, _REPLACE)
            for zone, one in loaded.zones.items()
        }

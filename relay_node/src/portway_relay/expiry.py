"""When this node's certificates end: the warnings before, and what has ended already.

Here: which certificates there are, when a warning is due. Not here: reading and replacing them (certificates.py), the
renewal of the node's own (membership/renewal.py).
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from portway_runtime.clocks import UtcNow

from portway_relay.certificates import LoadedCertificates
from portway_relay.membership.renewal import lifetime

logger = logging.getLogger(__name__)

NODE: Final = "node"  # what the node's own certificate is called beside those of zones

_HOUR: Final = timedelta(hours=1)
# Time left at which a warning is due: 30 days, 7 days, a day, and each hour of the last one.
_MARKS: Final = (timedelta(days=30), timedelta(days=7), *(hours * _HOUR for hours in range(24, 0, -1)))
_LOOK_INTERVAL: Final = 60.0  # seconds


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
        # By certificate: its end, and the mark of the last warning.
        self._warned: dict[str, tuple[datetime, timedelta]] = {}

    def ends(self) -> dict[str, datetime]:
        """When each certificate ends, by zone, and by NODE for the node's own."""
        return {name: certificate.not_valid_after_utc for name, certificate in self._all()}

    def first_end(self) -> datetime:
        """When the first certificate ends that somebody has to replace: one that the node renews by itself counts when
        that is overdue."""
        now = self._now()
        return min(
            certificate.not_valid_after_utc
            for name, certificate in self._all()
            if not (self._renewed and name == NODE and mark_of(certificate, now, renewed=True) is None)
        )

    def ended(self) -> str:
        """Why nobody can use this node, whose certificates have ended; empty when they have not. The names of another
        region are served by its own nodes, so that its certificate does not count."""
        ends, now = self.ends(), self._now()
        if ends[NODE] <= now:
            return "this node's certificate has ended"
        return f"the certificate of *.{self._zone} has ended" if ends[self._zone] <= now else ""

    async def watch(self) -> None:
        """Log what is due, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_INTERVAL)

    def look(self) -> None:
        """Log each certificate that has reached its next mark; at the first look also those that are past one."""
        now = self._now()
        for name, certificate in self._all():
            end, renewed = certificate.not_valid_after_utc, self._renewed and name == NODE
            mark = mark_of(certificate, now, renewed=renewed)
            if mark is not None and self._warned.get(name) != (end, mark):
                self._warned[name] = end, mark
                _log(name, end, end - now, renewed=renewed)

    def _all(self) -> Iterator[tuple[str, x509.Certificate]]:
        loaded = self._certificates()
        yield NODE, loaded.node.certificate
        for zone, certified in loaded.zones.items():
            yield zone, certified.certificate


def mark_of(certificate: x509.Certificate, now: datetime, *, renewed: bool) -> timedelta | None:
    """The last mark, as time left, that a certificate has passed at `now`; None when it has passed none. After its end
    each hour is a mark.

    A mark above half of the certificate's lifetime does not count: it would be passed from the start, or before tools
    replace it. One that the node renews (`renewed`, at half) is overdue when half of the time for that is over.
    """
    left = certificate.not_valid_after_utc - now
    if left <= timedelta():
        return left // _HOUR * _HOUR
    if renewed:
        limit = lifetime(certificate) / 4
        marks = (*_MARKS, limit)
    else:
        limit = (certificate.not_valid_after_utc - certificate.not_valid_before_utc) / 2
        marks = _MARKS
    return min((mark for mark in marks if left <= mark <= limit), default=None)


def _log(name: str, end: datetime, left: timedelta, *, renewed: bool) -> None:
    about = {"certificate": name, "until": f"{end.astimezone(UTC):%Y-%m-%d %H:%M} UTC", "hours_left": left // _HOUR}
    do = "invite the node anew (`portway-admin node invite`)" if renewed else "put a new one in its place"
    if left <= timedelta():
        logger.error("a certificate has ended and nobody trusts it any more: %s", do, extra=about)
    elif renewed:
        logger.warning("this node's certificate should have been renewed by now: see above why it was not", extra=about)
    else:
        logger.warning("a certificate ends soon: %s", do, extra=about)

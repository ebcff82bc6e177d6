"""When certificates end: the marks at which a warning is due, and the warnings.

Here: marks, and telling each once. Not here: which certificates a program has, what else their ends do.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509

from portway_runtime.clocks import UtcNow
from portway_runtime.identities import BACKDATE

logger = logging.getLogger(__name__)

_HOUR: Final = timedelta(hours=1)
# Time left at which a warning is due: 30 days, 7 days, a day, and each hour of the last one.
_MARKS: Final = (timedelta(days=30), timedelta(days=7), *(hours * _HOUR for hours in range(24, 0, -1)))
_LOOK_INTERVAL: Final = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Watched:
    """A certificate. `remedy`: what its operator does when it ends. `renewed`: the program renews it by itself at half
    of its lifetime, and `remedy` is for when that fails."""

    certificate: x509.Certificate
    remedy: str
    renewed: bool = False

    @property
    def end(self) -> datetime:
        """When it ends."""
        return self.certificate.not_valid_after_utc


class ExpiryWarnings:
    """Warns of the ends of certificates, which may be replaced meanwhile."""

    def __init__(self, watched: Callable[[], Mapping[str, Watched]], now: UtcNow) -> None:
        """watched: the certificates in use, by the names that warnings call them by."""
        self._watched = watched
        self._now = now
        # By certificate: its end, and the mark of the last warning.
        self._warned: dict[str, tuple[datetime, timedelta]] = {}

    async def watch(self) -> None:
        """Log what is due, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_INTERVAL)

    def look(self) -> None:
        """Log each certificate that has reached its next mark; at the first look also those that are past one."""
        now = self._now()
        for name, one in self._watched().items():
            mark = mark_of(one.certificate, now, renewed=one.renewed)
            if mark is not None and self._warned.get(name) != (one.end, mark):
                self._warned[name] = one.end, mark
                _log(name, one, one.end - now)


def mark_of(certificate: x509.Certificate, now: datetime, *, renewed: bool) -> timedelta | None:
    """The last mark, as time left, that a certificate has passed at `now`; None when it has passed none. After its end
    each hour is a mark.

    A mark above half of the certificate's lifetime does not count: it would be passed from the start, or before tools
    replace it. One that its owner renews (`renewed`, at half) is overdue when half of the time for that is over.
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


def lifetime(certificate: x509.Certificate) -> timedelta:
    """The time from the issue of a certificate of the cluster's CA to its end."""
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATE


def _log(name: str, one: Watched, left: timedelta) -> None:
    about = {"certificate": name, "until": f"{one.end.astimezone(UTC):%Y-%m-%d %H:%M} UTC", "hours_left": left // _HOUR}
    if left <= timedelta():
        logger.error("a certificate has ended and nobody trusts it any more: %s", one.remedy, extra=about)
    elif one.renewed:
        logger.warning("a certificate should have been renewed by now: see above why it was not", extra=about)
    else:
        logger.warning("a certificate ends soon: %s", one.remedy, extra=about)

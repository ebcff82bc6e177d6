"""Failed authentications: counted by address and reason, and written to the audit once a minute.

Here: what is counted and how little of it is written, whatever strangers send. Not here: why a caller is refused.
"""

import asyncio
import ipaddress
import logging
from collections import Counter
from typing import Final

from portway_registry.errors import NotAuthenticated, StoreUnavailable
from portway_registry.state.audit import Audit

logger = logging.getLogger(__name__)

_GATHERED: Final = 60.0  # seconds
# Entries for single addresses in a minute, those with the most failures; one more counts the others.
_MAX_ENTRIES: Final = 5
# Pairs of address and reason that are counted apart within a minute.
_MAX_COUNTED: Final = 1_000
_OTHERS: Final = "other addresses"
_LONGEST_REASON: Final = 80  # characters

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class FailedAuthentications:
    """The failures of this replica since the last entries."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._counts: Counter[tuple[str, str]] = Counter()
        self._any = asyncio.Event()

    def note(self, address: Address, error: NotAuthenticated) -> None:
        """Count a failure. IPv6 addresses are counted by their /64, which is what one customer of a provider has."""
        pair = _shown(address), str(error).partition(":")[0][:_LONGEST_REASON]
        if pair not in self._counts and len(self._counts) >= _MAX_COUNTED:
            pair = _OTHERS, pair[1]
        self._counts[pair] += 1
        self._any.set()

    async def run(self) -> None:
        """Write entries for ever, at most once a minute; after an outage of the store those of the outage together."""
        while True:
            await self._any.wait()
            await asyncio.sleep(_GATHERED)
            try:
                await self.write()
            except StoreUnavailable as error:
                logger.warning("failed authentications not in the audit yet", extra={"reason": str(error)})

    async def write(self) -> None:
        """Write what was counted, and begin anew. Raises StoreUnavailable; nothing is lost then."""
        counts = self._counts.copy()
        first = [(pair, number) for pair, number in counts.most_common() if pair[0] != _OTHERS][:_MAX_ENTRIES]
        entries = [(address, _what(number, reason)) for (address, reason), number in first]
        rest = counts.total() - sum(number for _, number in first)
        if rest:
            entries.append((_OTHERS, _what(rest, "any reason")))
        await self._audit.add_failures(entries)
        self._counts -= counts
        if not self._counts:
            self._any.clear()


def _shown(address: Address) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, 64), strict=False))
    return str(address)


def _what(number: int, reason: str) -> str:
    return f"{number} {'call' if number == 1 else 'calls'}: {reason}"

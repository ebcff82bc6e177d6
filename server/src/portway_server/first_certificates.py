"""The certificates without which neither clients nor visitors can come to a first machine, waited for.

Here: when they are asked for again. Not here: obtaining them, which the registry does and logs.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from portway_proto.v1.admin_pb2 import ZoneCertificateInfo
from portway_registry.config import Config

from portway_server.errors import CallFailed
from portway_server.registry_calls import operators_calls

logger = logging.getLogger(__name__)

_POLL: Final = 1.0
# Tries on top of the registry's own: the first when the delegation is there, the second for resolvers of the authority
# that remembered for a minute that it is not. More would use up what authorities allow for failures.
_TRIES: Final = 2
_APART: Final = 75.0


async def obtained(
    listed: Callable[[], Awaitable[list[ZoneCertificateInfo]]],
    obtain: Callable[[str], Awaitable[None]],
    zones: set[str],
    *,
    again: bool,
    now: Callable[[], float],
) -> None:
    """Return once there is a certificate of each of these zones that the registry obtains.

    With `again` what has failed is not left to the registry's pauses, which after a long wait for the delegation are up
    to an hour.
    """
    asked: dict[str, list[float]] = {}
    while True:
        lacking = [one for one in await listed() if one.zone in zones and not one.until_ms]
        if not lacking:
            return
        for one in lacking if again else ():
            before = asked.setdefault(one.zone, [])
            waiting = one.wanted_at_ms > one.failed_at_ms  # asked for, and not tried yet
            if one.failures and not waiting and len(before) < _TRIES and (not before or now() - before[-1] > _APART):
                logger.info("what failed for lack of the delegation is tried again", extra={"zone": one.zone})
                before.append(now())
                await obtain(one.zone)
        await asyncio.sleep(_POLL)


class Certificates:
    """Those of a registry of this machine."""

    def __init__(self, registry: Config, token: str) -> None:
        self._registry = registry
        self._token = token

    async def obtained(self, domain: str, region: str, *, again: bool) -> None:
        """Return once the registry's own name and this machine's region have theirs; at once where files are used, or
        where the registry does not take the token any more."""
        if self._registry.acme_directory is None:
            return
        zones = {self._registry.registry_name or domain, f"{region}.{domain}"}
        try:
            await obtained(self._listed, self._obtain, zones, again=again, now=asyncio.get_running_loop().time)
        except CallFailed as error:
            logger.warning("certificates are not waited for: %s", error)

    async def _listed(self) -> list[ZoneCertificateInfo]:
        # Each time anew: the registry shows another certificate once it has one.
        async with operators_calls(self._registry, self._token) as calls:
            return await calls.certificates()

    async def _obtain(self, zone: str) -> None:
        async with operators_calls(self._registry, self._token) as calls:
            await calls.obtain(zone)

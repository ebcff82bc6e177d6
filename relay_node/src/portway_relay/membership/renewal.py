"""A node's certificate, renewed by itself in good time.

Here: when, and what happens to the new one. Not here: asking (registry_link/link.py), files (kept.py). A certificate is
renewed at half its life, so that registries may be away for the other half.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_runtime.clocks import utc_now
from portway_runtime.identities import BACKDATE
from portway_runtime.tasks import Tasks

from portway_relay.config import NodeConfig
from portway_relay.errors import JoinError, RenewalFailed
from portway_relay.membership.state_folder import StateFolder

logger = logging.getLogger(__name__)

# The clock is looked at again after so long, whatever was slept for: it may have been set, or the machine suspended.
_LONGEST_SLEEP: Final = 60.0
_SHORTEST_SLEEP: Final = 0.1
# Tries within the second half of a certificate's life.
_TRIES: Final = 50


class Renewal:
    """Keeps one node's certificate good."""

    def __init__(
        self,
        kept: StateFolder,
        node: str,
        ask: Callable[[bytes], Awaitable[NodeCertificate]],
        renewed: Callable[[], None],
        *,
        on_failure: Callable[[BaseException], None],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """`ask` gets a certificate for a request, or raises RenewalFailed; `renewed` is told when the files are new."""
        self._kept = kept
        self._node = node
        self._ask = ask
        self._renewed = renewed
        self._now = now
        self._said = ""
        self._tasks = Tasks("renewal", on_failure)

    def start(self) -> None:
        self._tasks.spawn(self._keep_renewed(), name="keep renewed")

    async def close(self) -> None:
        await self._tasks.close()

    async def _keep_renewed(self) -> None:
        certificate = self._kept.certificate()
        while True:
            wait = (due(certificate) - self._now()).total_seconds()
            if wait <= 0:
                newer = await self._renew(certificate)
                # Spread: all nodes may have found their registry away.
                wait = life(certificate).total_seconds() / 2 / _TRIES * random.uniform(0.5, 1.0)  # noqa: S311
                certificate = newer or certificate
            await asyncio.sleep(min(max(wait, _SHORTEST_SLEEP), _LONGEST_SLEEP))

    async def _renew(self, certificate: x509.Certificate) -> x509.Certificate | None:
        """The next one; None when there is none now. A folder that cannot be written to stops no node."""
        try:
            self._kept.renewed(await self._ask(self._kept.request(self._node)))
            newer = self._kept.certificate()
        except (RenewalFailed, JoinError) as error:
            self._say(str(error), certificate)
            return None
        self._said = ""
        logger.info("certificate renewed", extra={"until": f"{newer.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"})
        self._renewed()
        return newer

    def _say(self, reason: str, certificate: x509.Certificate) -> None:
        """Once for each reason, and louder when it is over."""
        over = self._now() >= certificate.not_valid_after_utc
        if reason + str(over) == self._said:
            return
        self._said = reason + str(over)
        until = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        if over:
            logger.error(
                "this node's certificate has expired and nobody trusts it any more: invite it anew "
                "(`portway-admin node invite`) and start it with --join TOKEN",
                extra={"until": until, "reason": reason},
            )
        else:
            logger.warning("certificate not renewed, it is tried again", extra={"until": until, "reason": reason})


def renewal_for(
    config: NodeConfig,
    ask: Callable[[bytes], Awaitable[NodeCertificate]],
    renewed: Callable[[], None],
    *,
    on_failure: Callable[[BaseException], None],
) -> Renewal | None:
    """None for a node that was given its certificate: whoever made it sees to the next one."""
    if config.state_dir is None:
        return None
    return Renewal(StateFolder(config.state_dir), config.name, ask, renewed, on_failure=on_failure)


def life(certificate: x509.Certificate) -> timedelta:
    """How long it was to be good when it was issued."""
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc - BACKDATE


def due(certificate: x509.Certificate) -> datetime:
    """When to ask for the next one."""
    return certificate.not_valid_after_utc - life(certificate) / 2

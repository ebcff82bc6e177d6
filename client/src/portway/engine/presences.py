"""Presences: tells the node of the current session which claims it holds (WIRE.md §8.3).

A route to a tunnel ends with its session's presence, so one is sent before each BIND, after each UNBIND, and every
PRESENCE_INTERVAL seconds. Only the current session sends any: of one session key the latest counts everywhere, and one
for the node that is being left would take the tunnels from the next. Not here: what is bound (tunnel_set.py), signing
(signer.py).
"""

import asyncio
from collections.abc import Iterable
from typing import Final, NoReturn

from portway_proto.wire.labels import Label
from portway_proto.wire.limits import PRESENCE_INTERVAL
from portway_proto.wire.statements import Claim, Presence
from portway_runtime.clocks import Monotonic, counting_sleep

from portway.engine.directory import Directory
from portway.engine.session import Session
from portway.engine.signer import Signer

# Seconds. The loop's timers do not count time asleep. This often the clock that does is read, so that a machine that
# slept renews its presence as soon as it wakes.
LOOK_EVERY: Final = 5.0
# Seconds. A program that closes many tunnels one after the other sends one presence without them.
GATHER_CLOSED: Final = 0.05


class Presences:
    """Made and used on the engine's loop, by one link."""

    def __init__(self, directory: Directory, signer: Signer, clock: Monotonic = counting_sleep) -> None:
        """`clock` counts time asleep."""
        self._directory = directory
        self._signer = signer
        self._clock = clock
        self._session: Session | None = None
        self._claims: dict[Label, Claim] = {}
        self._latest: Presence | None = None  # of the current session
        self._sent_at = 0.0
        self._gathering: asyncio.TimerHandle | None = None

    def begin(self, session: Session, *, resumed: bool) -> None:
        """From now on `session` is the current one. A resumed one holds what it held, and its node is told so."""
        self._session, self._latest = session, None
        if not resumed:
            self._claims.clear()
        elif self._claims:
            self._send()

    def list(self, claims: Iterable[Claim]) -> None:
        """The current session holds these claims, or asks for them next: one presence, unless the latest has them."""
        for claim in claims:
            self._claims[claim.label] = claim
        listed = frozenset() if self._latest is None else self._latest.ids
        if any(claim.id not in listed for claim in self._claims.values()):
            self._send()

    def drop(self, label: Label) -> None:
        """The tunnel was closed or is held elsewhere: a presence without it follows."""
        if self._claims.pop(label, None) is not None and self._gathering is None:
            self._gathering = asyncio.get_running_loop().call_later(GATHER_CLOSED, self._send_rest)

    def that_lists(self, claim: Claim) -> Presence | None:
        """The latest presence, if it places this claim."""
        return self._latest if self._latest is not None and self._latest.places(claim) else None

    def renew_if_due(self) -> None:
        """Send one when the latest is PRESENCE_INTERVAL old."""
        if self._latest is not None and self._claims and self._clock() - self._sent_at >= PRESENCE_INTERVAL:
            self._send()

    async def keep_renewed(self) -> NoReturn:
        """Renew it whenever it is due, sleep of the machine included."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.renew_if_due()

    def end(self) -> None:
        """There is no current session any more."""
        self._session = self._latest = None
        self._claims.clear()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    def _send_rest(self) -> None:
        self._gathering = None
        if self._latest is not None and self._latest.ids - {claim.id for claim in self._claims.values()}:
            self._send()

    def _send(self) -> None:
        located = self._directory.located
        if self._session is None or located is None:
            return
        self._latest = self._signer.presence(self._session.node.name, self._claims.values())
        self._sent_at = self._clock()
        self._session.present(self._latest, located.grant.token)

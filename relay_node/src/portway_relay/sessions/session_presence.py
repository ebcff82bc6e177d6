"""What a session's client shows of itself: its presence, each five minutes, and its newest grant.

Here: their form, the check of their signatures off the event loop, which presence counts. Not here: the tunnels
(session_tunnels.py), who is told (mesh/announcer.py).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from portway_proto.v1.lane_pb2 import FAILURE_CODE_CLAIM, FAILURE_CODE_TIME
from portway_proto.v1.lane_pb2 import Presence as PresenceMessage
from portway_proto.wire.statements import Claim, Presence, StatementInvalid, read_presence
from portway_runtime.clocks import RegistryClock

from portway_relay.errors import Refused
from portway_relay.routing.senders import TOKEN, Sender
from portway_relay.routing.statement_checks import StatementChecks
from portway_relay.sessions.grants import Grant, GrantVerifier

logger = logging.getLogger(__name__)

TIME: Final = "the client's time differs from the cluster's: get the time from a registry, and sign again"


class SessionPresence:
    """The presence of one session."""

    def __init__(
        self,
        grant: Grant,
        node: str,
        checks: StatementChecks,
        grants: GrantVerifier,
        clock: RegistryClock,
        *,
        renewed: Callable[[Presence], None],
        granted: Callable[[Grant], None],
        broken: Callable[[str], None],
    ) -> None:
        """
        node: the name of this one.
        renewed: called with each presence whose signature is right.
        granted: called with each newer grant that is for this session, once its signature is found right.
        broken: called with the reason when the client has broken the protocol.
        """
        self.grant = grant
        self._node = node
        self._checks = checks
        self._grants = grants
        self._clock = clock
        self._renewed = renewed
        self._granted = granted
        self._broken = broken
        self._shown: Presence | None = None  # the last one that the client has sent
        self._latest_ms = 0  # the time of the last one that was fresh when it came
        self._checking: asyncio.Future[bool] | None = None  # of `_shown`, once its check has begun
        self.checked: Presence | None = None  # the latest one whose signature is right

    @property
    def sender(self) -> Sender:
        """Who is charged for checks."""
        return Sender(TOKEN, self.grant.token_id)

    def received(self, payload: bytes) -> None:
        """Take up a PRESENCE frame. Raises DecodeError, and StatementInvalid for what the client must not send."""
        message = PresenceMessage.FromString(payload)
        presence = read_presence(message.statement)
        if (presence.session_key, presence.node) != (self.grant.session_key, self._node):
            raise StatementInvalid("a presence of another session or at another node")
        if message.grant and message.grant != self.grant.encoded:
            self._take_grant(message.grant)
        if presence.time_ms <= self._latest_ms:
            return
        self._shown, self._checking = presence, None
        if presence.is_fresh(self._clock.now_ms()):
            self._latest_ms = presence.time_ms
            if not self._checks.wait(self.sender, 1):
                self._check(presence)

    def demand(self, claim: Claim) -> int:
        """Raise Refused unless the last presence lists this claim and is fresh. Returns how many signatures are still
        to be charged for it: 0 or 1."""
        presence = self._shown
        if presence is None or not presence.places(claim):
            raise Refused(FAILURE_CODE_CLAIM, "the session's last presence does not list this claim")
        if not presence.is_fresh(self._clock.now_ms()):
            raise Refused(FAILURE_CODE_TIME, TIME)
        return int(self._checking is None)

    async def genuine(self) -> bool:
        """Whether the last presence is; it is told to others by then. May be cancelled."""
        presence = self._shown
        if presence is None:
            return False
        checking = self._checking or self._check(presence)
        genuine = await asyncio.shield(checking)
        # A future that is done already is awaited without a turn of the loop, before its callbacks have run.
        self._has_checked(presence, checking)
        return genuine

    def _check(self, presence: Presence) -> "asyncio.Future[bool]":
        checking = self._checking = self._checks.check(presence.signed(self._checks.cluster), self.sender)
        checking.add_done_callback(lambda checking: self._has_checked(presence, checking))
        return checking

    def _has_checked(self, presence: Presence, checking: "asyncio.Future[bool]") -> None:
        """Take up a result. May be called again."""
        if checking.cancelled():
            return
        if not checking.result():
            self._broken("a forged presence")
        elif self.checked is None or self.checked.time_ms < presence.time_ms:
            self.checked = presence
            self._renewed(presence)

    def _take_grant(self, encoded: str) -> None:
        """Use the client's newest grant from now on, if it is for this session; else the one before stays."""
        try:
            grant = self._grants.read(encoded)
        except Refused as refused:
            logger.info("a newer grant is not accepted", extra={"reason": refused.message})
            return
        mine = self.grant
        same = (grant.session_key, grant.token_id, grant.tenant) == (mine.session_key, mine.token_id, mine.tenant)
        if not same or self._checks.wait(self.sender, 1):
            return
        checking = self._checks.check(grant.signed, self.sender)

        def checked(checking: "asyncio.Future[bool]") -> None:
            if not checking.cancelled() and checking.result():
                self._granted(grant)

        checking.add_done_callback(checked)

"""One client's session: its control lane, its pool of data lanes and its tunnels, from HELLO until it ends.

Here: the frames of the control lane, losing and replacing it. Not here: who may begin or resume a session
(sessions.py), what the requests for tunnels do (session_tunnels.py).
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import ClassVar, Final, Protocol

from google.protobuf.message import DecodeError, Message
from portway_carrier.contract import Lane, Pool
from portway_carrier.errors import CarrierError
from portway_proto.v1.lane_pb2 import FAILURE_CODE_PROTOCOL, Failure, Goaway, Renewed
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_runtime.rates import TokenBucket

from portway_relay.errors import Refused
from portway_relay.routing.tunnel import Tunnel
from portway_relay.sessions.grants import Grant
from portway_relay.sessions.session_tunnels import SessionContext, SessionTunnels

logger = logging.getLogger(__name__)

_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
# Token bucket of RENEWED: clients send one in half an hour.
_RENEWALS_PER_SECOND: Final = 1 / 60
_RENEWAL_BURST: Final = 5


class SessionOwner(Protocol):
    """What a session reports to."""

    def control_lost(self, session: "Session") -> None:
        """The control lane is lost; the client may resume the session."""
        ...

    def session_left(self, session: "Session") -> None:
        """The client left for good; the session has ended."""
        ...

    def grant_renewed(self, session: "Session", grant: str) -> None:
        """The client shows a newer grant, which is not verified yet."""
        ...

    def tunnel_released(self, tunnel: Tunnel) -> None:
        """The client gave a tunnel up; visits in progress may finish for a while."""
        ...


class Session:
    """A session, and the LaneEvents of its control lane.

    `id` names it and `secret` proves it: a client shows both to resume the session, and with each data lane.
    """

    def __init__(self, grant: Grant, pool: Pool, owner: SessionOwner, context: SessionContext) -> None:
        self.id = secrets.token_bytes(_ID_BYTES)
        self.secret = secrets.token_bytes(_SECRET_BYTES)
        self.pool = pool
        self._owner = owner
        self._control: Lane | None = None
        self._tunnels = SessionTunnels(grant, pool, context, self._send, owner.tunnel_released)
        self._asked_to_leave = False
        self._clock = context.clock
        self._renewals = TokenBucket(_RENEWALS_PER_SECOND, _RENEWAL_BURST, context.clock)
        self._lasts_until = 0.0  # on `clock`, which no change of the time moves

    @property
    def token_id(self) -> str:
        """The API token that the session belongs to."""
        return self._tunnels.token_id

    @property
    def tunnels(self) -> Mapping[str, Tunnel]:
        """The tunnels that it holds, by label."""
        return self._tunnels.by_label

    @property
    def unrenewed(self) -> bool:
        """Whether its client has shown no grant for so long that it must end."""
        return self._clock() >= self._lasts_until

    def renew(self, grant: Grant) -> None:
        """Take the client's newest grant."""
        self._tunnels.grant = grant
        self._lasts_until = self._clock() + grant.lasts

    def attach(self, control: Lane, grant: Grant) -> None:
        """Make `control` the control lane, closing the one before. `grant` is the client's newest."""
        self.renew(grant)
        self._tunnels.cancel_pending()
        before, self._control = self._control, control
        if before is not None:
            before.close()
        self.pool.attach_control(control)

    def resume(self) -> None:
        """Route visitors to its tunnels again; the client has its WELCOME."""
        self._tunnels.resume()

    def ask_to_leave(self, failure: Failure) -> None:
        """Send GOAWAY: the client should attach to another node."""
        self._asked_to_leave = True
        self._send(FrameType.GOAWAY, Goaway(failure=failure))

    def end(self, failure: Failure | None, *, closed: bool) -> None:
        """Release the tunnels and close the control lane, with FAIL if there is a `failure`. Data lanes close as they
        become idle. `closed`: the client does not bind the tunnels at another node."""
        control, self._control = self._control, None
        self._tunnels.release(closed=closed)
        self.pool.retire()
        if control is not None and failure is not None:
            control.fail(failure.SerializeToString())
        elif control is not None:
            control.close()

    # The LaneEvents of the control lane; those of a lane that was replaced are ignored.

    def frame_received(self, lane: Lane, frame_type: int, payload: bytes) -> None:
        if lane is not self._control:
            return
        handler = self._HANDLERS.get(frame_type)
        if handler is None:
            self._fail(lane, f"frame 0x{frame_type:02x} is not a client's to send here")
            return
        try:
            handler(self, payload)
        except DecodeError:
            self._fail(lane, f"a malformed frame 0x{frame_type:02x}")

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits are opened by the node")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        if lane is self._control:
            self._lose_control(str(error))

    def _bind(self, payload: bytes) -> None:
        self._tunnels.bind(payload)

    def _unbind(self, payload: bytes) -> None:
        self._tunnels.unbind(payload)

    def _moved(self, payload: bytes) -> None:
        self._tunnels.moved(payload)

    def _renewed(self, payload: bytes) -> None:
        """Verifying costs a signature. What comes faster than clients renew is not looked at: a later one counts."""
        renewed = Renewed.FromString(payload)
        if self._renewals.take():
            self._owner.grant_renewed(self, renewed.grant)

    def _goaway(self, payload: bytes) -> None:
        """The client leaves. One that was asked to has bound its tunnels at another node, or is about to."""
        Goaway.FromString(payload)
        self.end(None, closed=not self._asked_to_leave)
        self._owner.session_left(self)

    _HANDLERS: ClassVar[Mapping[int, Callable[["Session", bytes], None]]] = {
        FrameType.BIND: _bind,
        FrameType.UNBIND: _unbind,
        FrameType.MOVED: _moved,
        FrameType.RENEWED: _renewed,
        FrameType.GOAWAY: _goaway,
    }

    def _fail(self, lane: Lane, reason: str) -> None:
        """End the control lane for a breach of the protocol. The session may be resumed."""
        logger.warning("a client broke the protocol", extra={"peer": lane.peer.host, "reason": reason})
        lane.fail(Refused(FAILURE_CODE_PROTOCOL, reason).failure.SerializeToString())
        self._lose_control(reason)

    def _lose_control(self, reason: str) -> None:
        self._control = None
        self.pool.attach_control(None)
        self._tunnels.suspend()
        logger.info("client away", extra={"tunnels": len(self._tunnels), "reason": reason})
        self._owner.control_lost(self)

    def _send(self, frame_type: FrameType, message: Message) -> None:
        if self._control is not None:
            self._control.send(frame_type, message.SerializeToString())

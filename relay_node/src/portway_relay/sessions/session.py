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
from portway_proto.v1.lane_pb2 import FAILURE_CODE_PROTOCOL, Failure, Goaway
from portway_proto.wire.frames import FrameType, Opening, RefusalReason
from portway_proto.wire.statements import StatementInvalid

from portway_relay.errors import Refused
from portway_relay.routing.tunnel import Tunnel
from portway_relay.sessions.grants import Grant
from portway_relay.sessions.session_tunnels import SessionContext, SessionTunnels

logger = logging.getLogger(__name__)

_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32


class SessionOwner(Protocol):
    """What a session reports to."""

    def control_lost(self, session: "Session") -> None:
        """The control lane is lost; the client may resume the session."""
        ...

    def session_left(self, session: "Session") -> None:
        """The client left for good; the session has ended."""
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
        self._tunnels = SessionTunnels(
            grant, pool, context, self._send, owner.tunnel_released, self.renew, self._broken
        )
        self._asked_to_leave = False
        self._clock = context.clock
        self._lasts_until = 0.0  # on `clock`, which no change of the time moves

    @property
    def token_id(self) -> str:
        """The API token that the session belongs to."""
        return self._tunnels.token_id

    @property
    def session_key(self) -> bytes:
        """The public key that the client's grants are for."""
        return self._tunnels.shown.grant.session_key

    @property
    def tunnels(self) -> Mapping[str, Tunnel]:
        """The tunnels that it holds, by label."""
        return self._tunnels.by_label

    @property
    def unrenewed(self) -> bool:
        """Whether its client has shown no grant for so long that it must end."""
        return self._clock() >= self._lasts_until

    @property
    def told(self) -> frozenset[str]:
        """The ids of the CAs that its client was told of, by its newest grant."""
        return self._tunnels.shown.grant.told

    def renew(self, grant: Grant) -> None:
        """Take the client's newest grant, which was verified."""
        self._tunnels.shown.grant = grant
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
        except StatementInvalid as error:
            self._fail(lane, str(error))

    def opening_received(self, lane: Lane, opening: Opening) -> None:
        lane.refuse(RefusalReason.OTHER, "visits are opened by the node")

    def lane_closed(self, lane: Lane, error: CarrierError) -> None:
        if lane is self._control:
            self._lose_control(str(error))

    def _presence(self, payload: bytes) -> None:
        self._tunnels.shown.received(payload)

    def _bind(self, payload: bytes) -> None:
        self._tunnels.bind(payload)

    def _unbind(self, payload: bytes) -> None:
        self._tunnels.unbind(payload)

    def _moved(self, payload: bytes) -> None:
        self._tunnels.moved(payload)

    def _goaway(self, payload: bytes) -> None:
        """The client leaves. One that was asked to has bound its tunnels at another node, or is about to."""
        Goaway.FromString(payload)
        self.end(None, closed=not self._asked_to_leave)
        self._owner.session_left(self)

    _HANDLERS: ClassVar[Mapping[int, Callable[["Session", bytes], None]]] = {
        FrameType.PRESENCE: _presence,
        FrameType.BIND: _bind,
        FrameType.UNBIND: _unbind,
        FrameType.MOVED: _moved,
        FrameType.GOAWAY: _goaway,
    }

    def _broken(self, reason: str) -> None:
        """The client has broken the protocol with a frame whose check has ended just now."""
        if self._control is not None:
            self._fail(self._control, reason)

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

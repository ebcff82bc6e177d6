"""One open tunnel as the engine knows it: what was asked for, who it is, what the node gave, whether it is lost."""

import logging
from collections.abc import Callable

from portway_carrier.contract import LocalService
from portway_proto.wire.labels import Label

from portway.engine.dialogue import BindRequest, SessionKey, TunnelBound
from portway.engine.identity import LabelChain
from portway.errors import Error, TunnelLostError
from portway.tunnel import Tunnel, TunnelRequest

logger = logging.getLogger(__name__)

LocalAddress = tuple[int, str | None]


class HeldTunnel:
    """A tunnel from the request on. `when_lost` is called once, when it is lost for good."""

    def __init__(self, request: TunnelRequest, identity: LabelChain, when_lost: Callable[["HeldTunnel"], None]) -> None:
        self.request = request
        self.tunnel: Tunnel | None = None
        self.lost: TunnelLostError | None = None
        self.postponed: Error | None = None  # what a node said that asks to wait, while it is waited for
        self._identity = identity
        self._when_lost = when_lost
        self._ticket = b""  # for the raw port that is known
        self._without_port = False
        self._asked: tuple[SessionKey, BindRequest] | None = None  # the BIND whose answer is not known
        self._holder: SessionKey | None = None

    @property
    def label(self) -> Label:
        return self._identity.label

    @property
    def latest(self) -> tuple[int, bytes]:
        """The last epoch that was used, which is its holder's, and the proof of it."""
        return self._identity.epoch, self._identity.proof

    @property
    def place(self) -> LocalAddress:
        """What it forwards: one tunnel at a time for each."""
        return (self.request.port, self.request.host)

    @property
    def service(self) -> LocalService:
        return LocalService(self.request.port, self.request.host)

    @property
    def opened(self) -> Tunnel:
        assert self.tunnel is not None
        return self.tunnel

    @property
    def shown(self) -> bool:
        """Whether a node may know of it."""
        return self._identity.epoch > 0

    def held_by(self, session: SessionKey) -> bool:
        """Whether this session's node has it, and no BIND went elsewhere since."""
        return self._holder == session

    def bind_on(self, session: SessionKey) -> BindRequest:
        """The BIND to send: once more the one whose answer was lost in this very session, else the next epoch's.

        Raises RemoteError when there is no epoch left.
        """
        if self._asked is not None and self._asked[0] == session:
            return self._asked[1]
        epoch, proof = self._identity.next_proof()
        request = self.request
        bind = BindRequest(self.label, epoch, proof, request.unencrypted, request.h2_enabled, self._ticket)
        self._asked = (session, bind)
        self._holder = None
        return bind

    def bound(self, session: SessionKey, answer: TunnelBound) -> None:
        """A node has it. The addresses are those of the first time: its URL is known by now."""
        self._asked, self._holder = None, session
        if self.tunnel is None:
            self.tunnel = Tunnel(answer.host, answer.port, answer.unencrypted_host, answer.unencrypted_port)
        # The host names the region: every one has ports of its own.
        elif (answer.host, answer.unencrypted_port) != (self.tunnel.host, self.tunnel.unencrypted_port):
            self._port_lost()
            return
        self._ticket = answer.ticket or self._ticket
        if self._without_port:
            self._without_port = False
            logger.warning("tunnel %s… has its TCP port %d again", self.label[:4], self.tunnel.unencrypted_port)

    def _port_lost(self) -> None:
        """The ticket of the one that is known is kept: the next node may give it back."""
        if self.opened.unencrypted_port:
            self._without_port = True
            logger.error(
                "tunnel %s… could not keep its TCP port %d: only its https address works now; open it again",
                self.label[:4],
                self.opened.unencrypted_port,
            )

    def refused(self) -> None:
        """A node answered its BIND, and has it not."""
        self._asked = None

    def unbound(self) -> None:
        """The node that had it let go of it."""
        self._holder = None

    def lose(self, reason: Error) -> None:
        """It is gone for good: keep why, tell the program."""
        if self.lost is not None or self.tunnel is None:
            return
        self.lost = TunnelLostError(self.tunnel.url, reason)
        logger.error("tunnel %s… is lost for good: %s", self.label[:4], reason)
        self._when_lost(self)
        if self.request.tunnel_lost is not None:
            try:
                self.request.tunnel_lost(self.lost)
            except Exception:
                logger.exception("the program's tunnel_lost callback failed")

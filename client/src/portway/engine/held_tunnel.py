"""One tunnel as the engine holds it: its label and epochs, the session that it is bound on, its addresses, its loss.

LabelChain is the hash chain that the label comes from and the epochs that it has used up. Walking a new chain takes
4 ms, so ReadyChains makes one in advance. Not here: sending BIND (tunnel_set.py, session.py).
"""

import logging
import threading
from collections.abc import Callable

from portway_carrier.contract import LocalService
from portway_proto.wire.labels import CHAIN_LENGTH, Chain, Epoch, Label

from portway.engine.dialogue import BindRequest, SessionKey, TunnelBound
from portway.errors import Error, RemoteError, TunnelLostError
from portway.tunnel import Tunnel, TunnelRequest

logger = logging.getLogger(__name__)

# Port, and host or None for this machine. One tunnel at a time forwards each.
LocalAddress = tuple[int, str | None]


class LabelChain:
    """A tunnel's label, and the proofs of its epochs in turn."""

    __slots__ = ("_chain", "epoch")

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.epoch = Epoch(0)

    @property
    def label(self) -> Label:
        return self._chain.label

    @property
    def proof(self) -> bytes:
        """The proof of the current epoch."""
        return self._chain.proof(self.epoch)

    def next_proof(self) -> tuple[Epoch, bytes]:
        """Go on to the next epoch; returns it and its proof. Raises RemoteError when the chain is used up."""
        if self.epoch == CHAIN_LENGTH:
            raise RemoteError(f"its {CHAIN_LENGTH} epochs are used up: open a new tunnel")
        self.epoch = Epoch(self.epoch + 1)
        return self.epoch, self.proof


class ReadyChains:
    """New label chains; one is made in advance."""

    def __init__(self) -> None:
        self._ready: list[Chain] = []
        self._making: threading.Thread | None = None

    def take(self) -> LabelChain:
        """A new chain: at once when one is ready, otherwise after about 4 ms."""
        return LabelChain(self._ready.pop() if self._ready else Chain())

    def prepare(self) -> None:
        """Make one in advance, on a thread of its own."""
        if not self._ready and (self._making is None or not self._making.is_alive()):
            self._making = threading.Thread(target=self._make, name="portway chain", daemon=True)
            self._making.start()

    def _make(self) -> None:
        self._ready.append(Chain())


class HeldTunnel:
    """A tunnel from its request on."""

    def __init__(self, request: TunnelRequest, chain: LabelChain, on_lost: Callable[["HeldTunnel"], None]) -> None:
        """`on_lost` is called once, when the tunnel is lost for good."""
        self.request = request
        self.tunnel: Tunnel | None = None  # None until it is bound for the first time
        self.lost: TunnelLostError | None = None
        self.postponed: Error | None = None  # a node's refusal that asks to try later, while the client waits
        self._chain = chain
        self._on_lost = on_lost
        self._ticket = b""  # for the raw port in `tunnel`
        self._raw_port_missing = False
        self._unanswered: tuple[SessionKey, BindRequest] | None = None  # the last BIND, until its answer comes
        self._holder: SessionKey | None = None

    @property
    def label(self) -> Label:
        return self._chain.label

    @property
    def latest(self) -> tuple[int, bytes]:
        """The epoch of the last BIND, and its proof."""
        return self._chain.epoch, self._chain.proof

    @property
    def local_address(self) -> LocalAddress:
        return (self.request.port, self.request.host)

    @property
    def service(self) -> LocalService:
        """The local server, for the carrier."""
        return LocalService(self.request.port, self.request.host)

    @property
    def public(self) -> Tunnel:
        """Its public address; it must have been bound."""
        assert self.tunnel is not None
        return self.tunnel

    @property
    def bind_sent(self) -> bool:
        """Whether a BIND was ever sent, so that a node may know it."""
        return self._chain.epoch > 0

    def held_by(self, session: SessionKey) -> bool:
        """Whether the node of this session has it, and no BIND was sent to another since."""
        return self._holder == session

    def bind_on(self, session: SessionKey) -> BindRequest:
        """The BIND to send: repeated if its answer was lost in this same session, otherwise with the next epoch.

        Raises RemoteError when no epoch is left.
        """
        if self._unanswered is not None and self._unanswered[0] == session:
            return self._unanswered[1]
        epoch, proof = self._chain.next_proof()
        request = self.request
        bind = BindRequest(self.label, epoch, proof, request.unencrypted, request.h2_enabled, self._ticket)
        self._unanswered = (session, bind)
        self._holder = None
        return bind

    def bound(self, session: SessionKey, answer: TunnelBound) -> None:
        """The node of this session has it. The addresses stay those of the first time, which the program has by now."""
        self._unanswered, self._holder = None, session
        if self.tunnel is None:
            self.tunnel = Tunnel(answer.host, answer.port, answer.unencrypted_host, answer.unencrypted_port)
        # The host includes the region, and each region has raw ports of its own.
        elif (answer.host, answer.unencrypted_port) != (self.tunnel.host, self.tunnel.unencrypted_port):
            self._lose_raw_port()
            return
        self._ticket = answer.ticket or self._ticket
        if self._raw_port_missing:
            self._raw_port_missing = False
            logger.warning("tunnel %s… has its TCP port %d again", self.label[:4], self.tunnel.unencrypted_port)

    def _lose_raw_port(self) -> None:
        """The ticket of the first port is kept: the next node may give the port back."""
        if self.public.unencrypted_port:
            self._raw_port_missing = True
            logger.error(
                "tunnel %s… could not keep its TCP port %d: only its https address works now; open it again",
                self.label[:4],
                self.public.unencrypted_port,
            )

    def refused(self) -> None:
        """A node refused its BIND."""
        self._unanswered = None

    def unbound(self) -> None:
        """The node that had it unbound it."""
        self._holder = None

    def lose(self, reason: Error) -> None:
        """It is lost for good: record the first reason, and call `on_lost` and the program's callback. Nothing happens
        to a tunnel that was never open, whose opener gets the error."""
        if self.lost is not None or self.tunnel is None:
            return
        self.lost = TunnelLostError(self.tunnel.url, reason)
        self._on_lost(self)
        if self.request.tunnel_lost is not None:
            try:
                self.request.tunnel_lost(self.lost)
            except Exception:
                logger.exception("the program's tunnel_lost callback failed")
        # Last: who reads the line may count on the program knowing.
        logger.error("tunnel %s… is lost for good: %s", self.label[:4], reason)

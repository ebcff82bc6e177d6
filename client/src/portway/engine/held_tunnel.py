"""One tunnel as the engine holds it: its key and label, its epochs, the session that it is bound on, its loss.

Its key is made with it, in memory, or is that of a key file, with which the label and the raw port stay when its
program is started again. Not here: sending BIND (tunnel_set.py, session.py).
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from portway_carrier.values import LocalService, ProxyHeaderForm
from portway_proto.v1.types_pb2 import TunnelOptions
from portway_proto.wire.labels import Label, label_of_key
from portway_proto.wire.statements import Claim, SigningKey

from portway.engine.dialogue import BindRequest, SessionCredentials, TunnelBound
from portway.engine.directory import Node
from portway.engine.signer import OUTBID, Signer
from portway.errors import Error, TakenOverError, TunnelLostError
from portway.tunnel import Before, Tunnel, TunnelRequest, tell_program

if TYPE_CHECKING:
    from portway.engine.key_file import KeyFile  # imported late: most tunnels have none

logger = logging.getLogger(__name__)

# Port, and host or None for this machine. One tunnel at a time forwards each.
LocalAddress = tuple[int, str | None]

# Times that a program outbids another one, which was started before it, for its key file's label.
OUTBIDS: Final = 4


class HeldTunnel:
    """A tunnel from its request on."""

    def __init__(
        self, request: TunnelRequest, on_lost: Callable[["HeldTunnel"], None], key_file: "KeyFile | None" = None
    ) -> None:
        """`on_lost` is called once, when the tunnel is lost for good."""
        self.request = request
        self.tunnel: Tunnel | None = None  # None until it is bound for the first time
        self.lost: TunnelLostError | None = None
        self.postponed: Error | None = None  # a node's refusal that asks to try later, while the client waits
        self._key_file = key_file
        before = request.before
        self._known = None if before is None else before.tunnel  # the address that the program has, once it has one
        if key_file is not None:
            self._key = key_file.key
        else:
            self._key = SigningKey(None if before is None else before.private_key)
        self.label: Label = label_of_key(self._key.public)
        self._on_lost = on_lost
        self._options = TunnelOptions(h2_enabled=request.h2_enabled, unencrypted=request.unencrypted).SerializeToString(
            deterministic=True
        )
        self._epoch = 0  # of the last claim, or higher
        self._outbids = 0
        self._claim: Claim | None = None  # the last
        self._ticket = b"" if before is None else before.ticket  # for the raw port in `_known`
        self._raw_port_missing = False
        self._unanswered: tuple[SessionCredentials, BindRequest] | None = None  # the last BIND, until its answer comes
        self._holder: SessionCredentials | None = None

    @property
    def latest(self) -> Claim:
        """The claim of the last BIND; there must have been one."""
        assert self._claim is not None
        return self._claim

    @property
    def local_address(self) -> LocalAddress:
        return (self.request.port, self.request.host)

    @property
    def service(self) -> LocalService:
        """The local server, for the carrier; the ports in PROXY headers are 0 until it is bound for the first time."""
        form = None
        if self.request.proxy_protocol:
            ports = (0, 0) if self.tunnel is None else (self.tunnel.port, self.tunnel.unencrypted_port)
            form = ProxyHeaderForm(self.request.proxy_protocol, *ports)
        return LocalService(self.request.port, self.request.host, form)

    @property
    def public(self) -> Tunnel:
        """Its public address; it must have been bound."""
        assert self.tunnel is not None
        return self.tunnel

    @property
    def kept(self) -> Before:
        """With this another engine opens it again; it must have been bound."""
        return Before(self._key.private, self.public, self._ticket)

    @property
    def is_new(self) -> bool:
        """Whether it was never open, in this engine or in another one that has ended: a quota must have room for it."""
        return self._known is None

    @property
    def bind_sent(self) -> bool:
        """Whether a BIND was ever sent, so that a node may know it."""
        return self._claim is not None

    def held_by(self, session: SessionCredentials) -> bool:
        """Whether the node of this session has it, and no BIND was sent to another since."""
        return self._holder == session

    def bind_on(self, session: SessionCredentials, node: Node, signer: Signer) -> BindRequest:
        """The BIND to send to the session's node: repeated if its answer was lost in this same session, otherwise with
        a claim of the next epoch."""
        if self._unanswered is not None and self._unanswered[0] == session:
            return self._unanswered[1]
        self._epoch = signer.epoch_after(self._epoch)
        self._claim = signer.claim(self._key, self._epoch, node.name, self._options)
        host = "" if self.tunnel is None else self.tunnel.host
        bind = BindRequest(self._claim, self.request.unencrypted, self._ticket_at(node), host)
        self._unanswered = (session, bind)
        self._holder = None
        return bind

    def bound(self, session: SessionCredentials, answer: TunnelBound) -> None:
        """The node of this session has it. The addresses stay those of the first time, which the program has by now."""
        self._unanswered, self._holder = None, session
        if self._known is None:
            self._known = Tunnel(answer.host, answer.port, answer.unencrypted_host, answer.unencrypted_port)
        self.tunnel = self._known
        # The host includes the region, and each region has raw ports of its own.
        if (answer.host, answer.unencrypted_port) != (self.tunnel.host, self.tunnel.unencrypted_port):
            self._lose_raw_port()
            return
        if answer.ticket:
            self._ticket = answer.ticket
            if self._key_file is not None:
                self._key_file.keep_ticket(answer.host, answer.ticket)
        if self._raw_port_missing:
            self._raw_port_missing = False
            logger.warning("tunnel %s… has its TCP port %d again", self.label[:4], self.tunnel.unencrypted_port)

    def _ticket_at(self, node: Node) -> bytes:
        """That of the raw port that it is known by; before it has one, of the port that the key file had in the node's
        region."""
        if self._known is not None or self._key_file is None or not self.request.unencrypted:
            return self._ticket
        return self._key_file.ticket(f"{self.label}.{node.zone}")

    def _lose_raw_port(self) -> None:
        """The ticket of the first port is kept: the next node may give the port back."""
        if self.public.unencrypted_port:
            self._raw_port_missing = True
            logger.error(
                "tunnel %s… could not keep its TCP port %d: only its https address works now; open it again",
                self.label[:4],
                self.public.unencrypted_port,
            )

    def keeps_port_at(self, node: Node) -> bool:
        """Whether its raw port works there, or does not work now either: ports are those of a region."""
        if not self.public.unencrypted_port or self._raw_port_missing:
            return True
        return self.public.host == f"{self.label}.{node.zone}"

    def refused(self) -> None:
        """A node refused its BIND."""
        self._unanswered = None

    def unbound(self) -> None:
        """The node that had it unbound it."""
        self._holder = None

    def outranked(self, owner: Claim, *, own: bool) -> None:
        """A verified claim owns the label instead of the last one here. `own`: this program has signed it.

        The next claim outranks it if it is this program's own, or if the tunnel was never bound: then the other program
        was started before. Raises TakenOverError otherwise.
        """
        if own:
            self._epoch = owner.epoch
            return
        if self.tunnel is not None or self._outbids == OUTBIDS:
            raise TakenOverError(
                "another program that uses the same key file has this URL now: give each program a key file of its own"
            )
        self._outbids += 1
        self._epoch = owner.epoch + OUTBID - 1

    def lose(self, reason: Error) -> None:
        """It is lost for good: record the first reason, and call `on_lost` and the program's callback. Nothing happens
        to a tunnel that was never open, whose opener gets the error."""
        if self.lost is not None or self.tunnel is None:
            return
        self.lost = TunnelLostError(self.tunnel.url, reason)
        self._on_lost(self)
        told = tell_program(self.lost, self.request.tunnel_lost)
        # A program that was told says it in its own words.
        level = logging.DEBUG if told else logging.ERROR
        logger.log(level, "tunnel %s… is lost for good: %s", self.label[:4], reason)

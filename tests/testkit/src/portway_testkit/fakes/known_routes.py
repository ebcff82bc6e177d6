"""A node's memory of routes alone: what it hears, which signatures are checked, and where visitors would be sent."""

from typing import Any

from portway_proto.wire.limits import YOUNG
from portway_proto.wire.statements import Claim, Presence, SigningKey, read_presence
from portway_relay.routing.heard import HeardPresence, Word
from portway_relay.routing.routes import Routes
from portway_relay.routing.senders import NODE, Sender
from portway_runtime.clocks import RegistryClock

from portway_testkit.fakes.clock import ManualClock
from portway_testkit.signers import CLUSTER, NOW_MS, SessionSigner, label_of

KEY = SigningKey(b"\x05" * 32)
LABEL = label_of(KEY)


def node(name: str) -> Sender:
    return Sender(NODE, name)


class KnownRoutes:
    """Routes of node `here`, which knows the nodes a, b and c. It is no longer young unless a test asks for that.

    Signatures are checked at once; senders in `broke` have no budget for it.
    """

    def __init__(self, clock: ManualClock, *, young: bool = False) -> None:
        self.clock = clock
        self.pools: dict[str, Any] = {name: object() for name in ("here", "a", "b", "c")}
        self.held: dict[str, Claim] = {}
        self.superseded: list[Claim] = []
        self.broke: set[str] = set()
        self.checked: list[Word] = []
        self.registry_clock = RegistryClock(lambda: clock() + self.ahead, clock)
        self.ahead = NOW_MS / 1000 - clock()
        self.routes = Routes("here", self.pools.get, self.held.get, clock, self.registry_clock)
        self.routes.subscribe(self.superseded.append)
        if not young:
            clock.now += YOUNG

    @property
    def now_ms(self) -> int:
        return self.registry_clock.now_ms()

    def place(
        self,
        signer: SessionSigner,
        at: str,
        epoch: int = 1,
        *,
        key: SigningKey = KEY,
        told_by: str = "",
        late: float = 0.0,
    ) -> tuple[Claim, Presence]:
        """A client binds a label at a node, which, or `told_by`, tells this one. Its presence is `late` seconds old."""
        signer.held.clear()
        claim = signer.claim(key, node=at, epoch=epoch)
        presence = signer.present(at, time_ms=self.now_ms - int(late * 1000))
        self.hear(told_by or at, claim, presence)
        return claim, presence

    def hear(self, teller: str, claim: Claim | None, presence: Presence | None) -> None:
        """A node shows statements; those that contest what is in use are checked at once."""
        routes, sender = self.routes, node(teller)
        if presence is not None and (label := routes.hear_presence(sender, presence)) is not None:
            self.settle(label)
        if claim is not None and routes.hear_claim(sender, claim):
            self.settle(claim.label)

    def settle(self, label: str = LABEL) -> None:
        """Check what matters of a label, as Verification does."""
        passed_over: set[Word] = set()
        while (word := self.routes.unchecked(label, passed_over)) is not None:
            if word.sender.name in self.broke:
                passed_over.add(word)
                continue
            self.checked.append(word)
            if word.signed(CLUSTER).is_genuine():
                self.routes.checked(word, read_presence(word.encoded) if isinstance(word, HeardPresence) else None)
            else:
                self.routes.forged(word)
        self.routes.decide(label)

    def at(self, label: str = LABEL) -> tuple[str, int] | None:
        """Where a visitor would be sent without asking anybody, as node and epoch."""
        self.settle(label)
        route = self.routes.usable(label)
        return None if route is None else (route.node, route.epoch)

    def placed(self, label: str = LABEL) -> tuple[str, int] | None:
        """Where a visitor would be sent after asking in vain."""
        self.settle(label)
        route = self.routes.placed(label)
        return None if route is None else (route.node, route.epoch)

"""Routes: which other node holds a label, by the statements that its client has signed.

Here: what counts of what was heard, which signature is to be checked next, and for how long a route is used without
asking. Pure: no I/O, clocks are injected. Not here: the checking (verification.py), asking (lookup.py).

A route needs a genuine claim, and a genuine presence that lists it and is fresh; no genuine claim of higher rank and no
later genuine presence of its session may be known.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final

from portway_carrier.contract import Pool, Visit
from portway_proto.records import InvalidRecord, claimed_options
from portway_proto.wire.limits import CLOCK_LEEWAY, PRESENCE_FRESH, YOUNG
from portway_proto.wire.statements import Claim, Presence, is_believable_epoch
from portway_runtime.bounded import BoundedMap
from portway_runtime.clocks import Monotonic, RegistryClock

from portway_relay.routing.heard import Heard, HeardClaim, HeardPresence, Word
from portway_relay.routing.releases import Releases
from portway_relay.routing.senders import NODE, Sender

# Seconds that a label counts as unknown after a lookup found no holder: a name that is asked for in a loop costs one
# question a second, and the delay of a tunnel that opens just then goes unnoticed. An announcement ends it at once.
_UNKNOWN_TIME: Final = 1.0
_MAX_UNKNOWN: Final = 10_000
# Seconds until a route whose renewal is overdue is asked about again: its visitors do not all wait for an answer, and
# a client that has left is found out within a minute.
_ASK_AGAIN: Final = 60.0


@dataclass(slots=True, eq=False)
class Route:
    """A tunnel whose home is another node; a Destination.

    until, ends_at: by this node's clock. Before `until` it is used without asking. At `ends_at` the last presence of
    its session ends.
    """

    word: HeardClaim = field(repr=False)
    h2_enabled: bool
    last_pool: Pool = field(repr=False)
    find_pool: Callable[[str], Pool | None] = field(repr=False)
    placed: bool = False  # the latest presence lists the claim, and its node has not released it
    until: float = 0.0
    ends_at: float = 0.0
    moving: bool = False  # its client is there, or at another node with other tunnels
    asked_at: float | None = None  # when a registry or other nodes were last asked about it
    visits: set[Visit] = field(default_factory=set, repr=False)

    @property
    def claim(self) -> Claim:
        return self.word.claim

    @property
    def label(self) -> str:
        return self.word.claim.label

    @property
    def node(self) -> str:
        return self.word.claim.node

    @property
    def epoch(self) -> int:
        return self.word.claim.epoch

    @property
    def pool(self) -> Pool:
        """The lanes to its node; those of a node that is no longer known refuse visitors."""
        self.last_pool = self.find_pool(self.node) or self.last_pool
        return self.last_pool

    @property
    def full(self) -> bool:
        """False: its home node counts its visits."""
        return False


class Routes:
    """Routes by label, and the statements that they follow from."""

    def __init__(
        self,
        node: str,
        pool_of: Callable[[str], Pool | None],
        held: Callable[[str], Claim | None],
        clock: Monotonic,
        registry_clock: RegistryClock,
    ) -> None:
        """
        node: the name of this node, which starts now.
        pool_of: the lanes to a node by its name; None for an unknown node.
        held: the claim of this node's own binding of a label.
        clock: also counts time asleep.
        """
        self._node = node
        self._pool_of = pool_of
        self._held = held
        self._clock = clock
        self._registry_clock = registry_clock
        self._young_until = clock() + YOUNG
        self._superseded: Callable[[Claim], None] | None = None
        self._heard = Heard(self._evicted)
        self._releases = Releases(clock)
        self._routes: dict[str, Route] = {}  # each rests on a claim in `_heard`, which bounds their number
        self._labels: dict[bytes, set[str]] = {}  # of the routes, by session key
        self._unknown_until: BoundedMap[str, float] = BoundedMap(_MAX_UNKNOWN)

    def __len__(self) -> int:
        """Labels that lead to other nodes."""
        return len(self._routes)

    def subscribe(self, superseded: Callable[[Claim], None]) -> None:
        """Call `superseded` with each claim that places elsewhere, with a higher rank, a label that is bound here.

        There is one subscriber, the table.
        """
        self._superseded = superseded

    # Where visitors go.

    def usable(self, label: str) -> Route | None:
        """The route, when it is used without asking."""
        route = self._routes.get(label)
        return route if route is not None and self._clock() < route.until else None

    def placed(self, label: str) -> Route | None:
        """The route as far as it is known, also when somebody should be asked about it."""
        route = self._routes.get(label)
        if route is None or not route.placed or self._clock() >= route.ends_at or self._pool_of(route.node) is None:
            return None
        return route

    def last_node(self, label: str) -> str | None:
        """The node of the last route, whether it is still one or not."""
        route = self._routes.get(label)
        return None if route is None else route.node

    def is_moving(self, label: str) -> bool:
        """Whether it was bound until a moment ago, so that its client may be binding it at another node."""
        route = self._routes.get(label)
        if route is not None and route.moving and self._clock() < route.ends_at:
            return True
        owner = self.highest(label)
        node = None if owner is None or owner.node == self._node else owner.node
        return self._releases.awaited(label, node)

    def is_unknown(self, label: str) -> bool:
        """Whether every node and a registry were asked within the last second, and none had it."""
        until = self._unknown_until.get(label)
        if until is None:
            return False
        if until > self._clock():
            return True
        del self._unknown_until[label]
        return False

    def mark_unknown(self, label: str) -> None:
        """Note that a lookup found no holder."""
        self._unknown_until[label] = self._clock() + _UNKNOWN_TIME

    def forget_unknown(self) -> None:
        """Ask for every label again: a registry that could not be asked before can be now."""
        self._unknown_until.clear()

    def asked(self, label: str) -> None:
        """Note that a registry, or the nodes of the label's region, were asked just now."""
        route = self._routes.get(label)
        if route is not None:
            route.asked_at = self._clock()
            self._renew(route)

    def closed_epoch(self, label: str) -> int:
        """The epoch with which its client closed it at this node; 0 when it did not, or has bound it again."""
        return self._releases.closed_epoch(label)

    def highest(self, label: str) -> Claim | None:
        """Of all genuine claims the one of highest rank, this node's own and past ones included."""
        return next((word.claim for word in self._heard.claims(label) if word.genuine), None)

    def is_elsewhere(self, held: Claim) -> bool:
        """Whether its client has bound a label at another node after `held`, by statements that are checked. The node
        may be unknown here."""
        owner = self.highest(held.label)
        if owner is None or owner.node == self._node or owner.rank <= held.rank:
            return False
        newest = self._newest(owner.session_key)
        return newest is not None and newest.genuine is not None and newest.genuine.places(owner)

    # What is heard.

    def hear_claim(self, sender: Sender, claim: Claim) -> bool:
        """Keep a claim that a sender has shown, unless its epoch is too far ahead or its options cannot be read.

        Returns whether it should be checked now: it contests what is in use here.
        """
        if not is_believable_epoch(claim.epoch, self._registry_clock.now_ms()) or not _is_readable(claim.options):
            return False
        label = claim.label
        if sender == (NODE, claim.node):
            self._releases.bound(sender, label, claim.epoch)
        word = self._heard.claim(sender, claim)
        self._unknown_until.pop(label, None)
        route, held = self._routes.get(label), self._held(label)
        if word is None or word.genuine:
            if word is not None or route is not None:
                self.decide(label)
            return False
        if held is not None and claim.rank > held.rank:
            return claim.node != self._node
        return route is not None and claim.rank > route.claim.rank

    def hear_presence(self, sender: Sender, presence: Presence) -> str | None:
        """Keep a presence that a sender has shown.

        Returns a label by which it should be checked now, if routes in use depend on it.
        """
        if not presence.is_fresh(self._registry_clock.now_ms()):
            return None
        word = self._heard.presence(sender, presence, self._clock())
        labels = self._labels.get(presence.session_key)
        if word is None or word.genuine is not None or not labels:
            return None
        newest = self._newest(presence.session_key)
        return next(iter(labels)) if newest is None or newest.time_ms < presence.time_ms else None

    def hear_moved(self, sender: Sender, claim: Claim, presence: Presence) -> None:
        """Keep where a session that had the label says that its client went. Once the two are checked that counts as an
        answer: nobody else is asked."""
        self.hear_presence(sender, presence)
        self.hear_claim(sender, claim)
        self._heard.vouch(sender, claim, self._clock())
        self.decide(claim.label)

    def is_latest(self, session_key: bytes, presence: bytes) -> bool:
        """Whether this is the latest genuine presence of its session that is known."""
        newest = self._newest(session_key)
        return newest is not None and newest.encoded == presence

    def bound_here(self, sender: Sender, claim: Claim) -> None:
        """This node has bound a label, by a claim that it has checked. It is remembered beyond the binding's end."""
        self._releases.bound(sender, claim.label, claim.epoch)
        self._unknown_until.pop(claim.label, None)
        word = self._heard.claim(sender, claim)
        if word is not None:
            word.genuine = True
        self.decide(claim.label)

    def present_here(self, sender: Sender, presence: Presence) -> None:
        """A session of this node has a presence that was checked."""
        word = self._heard.presence(sender, presence, self._clock())
        if word is not None:
            word.genuine = presence
        self._renew_all(presence.session_key)

    def released(self, sender: Sender, label: str, epoch: int, *, closed: bool) -> None:
        """The sender, another node or a token of this node's clients, does not hold the label with that epoch any more.

        closed: its client closed the tunnel, so the name is as good as unknown. Otherwise the client may be on its way
        to this node or another one.
        """
        self._releases.note(sender, label, epoch, closed=closed)
        route = self._routes.get(label)
        if route is not None:
            self._renew(route)

    # Which signatures count.

    def unchecked(self, label: str, passed_over: Container[Word] = (), *, above: Claim | None = None) -> Word | None:
        """The next statement whose signature decides where the label is; None when all that matter are checked.

        passed_over: statements that cannot be checked now, and count as if nobody had shown them.
        above: a claim that was checked; only claims of higher rank matter then.
        """
        owner: HeardClaim | None = None
        for claim in self._heard.claims(label):
            if above is not None and claim.claim.rank <= above.rank:
                return None
            if claim.genuine:
                owner = claim
                break
            if claim not in passed_over:
                return claim
        if owner is None or owner.claim.node == self._node:
            return None
        now_ms = self._registry_clock.now_ms()
        for presence in self._heard.presences(owner.claim.session_key):
            if presence.genuine is not None:
                return None
            if presence not in passed_over and _age(presence, now_ms) <= PRESENCE_FRESH + CLOCK_LEEWAY:
                return presence
        return None

    def checked(self, word: Word, presence: Presence | None) -> None:
        """The signature of a statement is right; `presence` is the statement itself, when it is one."""
        if isinstance(word, HeardClaim):
            word.genuine = True
        else:
            word.genuine = presence
            self._renew_all(word.session_key)

    def forged(self, word: Word) -> None:
        """The signature of a statement is wrong."""
        self._heard.disbelieve(word)

    def decide(self, label: str) -> None:
        """Take up what the genuine statements say of a label."""
        owner = next((word for word in self._heard.claims(label) if word.genuine), None)
        pool = None if owner is None or owner.claim.node == self._node else self._pool_of(owner.claim.node)
        route = self._routes.get(label)
        if owner is None or pool is None:
            # A route of lower rank than the owner's leads nowhere, whether or not the owner's node is known.
            if route is not None and (owner is None or route.claim.encoded != owner.claim.encoded):
                self._drop(route)
            return
        if route is None or route.claim.encoded != owner.claim.encoded:
            if route is not None:
                self._drop(route)
            options = claimed_options(owner.claim.options)
            route = self._routes[label] = Route(owner, options.h2_enabled, pool, self._pool_of)
            self._labels.setdefault(owner.claim.session_key, set()).add(label)
        vouched = self._heard.vouched_at(owner.claim)
        if vouched is not None and (route.asked_at is None or route.asked_at < vouched):
            route.asked_at = vouched
        self._renew(route)
        held = self._held(label)
        if route.placed and held is not None and held.rank < owner.claim.rank and self._superseded is not None:
            self._superseded(owner.claim)

    def _renew_all(self, session_key: bytes) -> None:
        for label in list(self._labels.get(session_key, ())):
            self.decide(label)

    def _renew(self, route: Route) -> None:
        """Compute for how long the route holds."""
        newest = self._newest(route.claim.session_key)
        route.placed, route.moving, route.until, route.ends_at = False, False, 0.0, 0.0
        if newest is None or newest.genuine is None:
            return
        now, age = self._clock(), _age(newest, self._registry_clock.now_ms())
        route.ends_at = now + PRESENCE_FRESH + CLOCK_LEEWAY - age
        if self._releases.covers(route.claim):
            return
        route.placed = newest.genuine.places(route.claim)
        route.moving = route.placed or newest.genuine.node != route.node
        if not route.placed:
            return
        overdue = min(newest.heard_at + PRESENCE_FRESH, now + PRESENCE_FRESH - age)
        if route.asked_at is not None:
            overdue = max(overdue, route.asked_at + _ASK_AGAIN)
        elif now < self._young_until:
            # What it was told before its start it does not know any more: there may be a later statement.
            overdue = 0.0
        route.until = min(overdue, route.ends_at)

    def _newest(self, session_key: bytes) -> HeardPresence | None:
        """The latest genuine presence of a session."""
        return next((word for word in self._heard.presences(session_key) if word.genuine is not None), None)

    def _drop(self, route: Route) -> None:
        del self._routes[route.label]
        labels = self._labels[route.claim.session_key]
        labels.discard(route.label)
        if not labels:
            del self._labels[route.claim.session_key]

    def _evicted(self, word: HeardClaim) -> None:
        route = self._routes.get(word.claim.label)
        if route is not None and route.word is word:
            self._drop(route)


def _is_readable(options: bytes) -> bool:
    try:
        claimed_options(options)
    except InvalidRecord:
        return False
    return True


def _age(presence: HeardPresence, now_ms: int) -> float:
    """Seconds since it was signed, by the registry's clock."""
    return (now_ms - presence.time_ms) / 1000

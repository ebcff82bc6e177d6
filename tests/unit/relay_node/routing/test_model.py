"""A model of one node's routes, and of a hostile node that knows every statement ever signed.

A client moves, closes, opens and renews its tunnels at random, and is started again with the same keys, among honest
nodes and the hostile one. That one shows this node whatever it has, in any order and at any time, and signs with keys
of its own; this node restarts, asks an honest registry, or cannot. Visitors come, and what they are led to is compared
with where the client has really placed its tunnels. Each rule is then taken out: the same exploration must find
visitors who are led astray.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from portway_proto.wire import statements
from portway_proto.wire.limits import CLOCK_LEEWAY, PRESENCE_FRESH, YOUNG
from portway_proto.wire.statements import Claim, Presence, SigningKey, read_claim, read_presence
from portway_relay.routing import heard, routes, senders
from portway_relay.routing.senders import NODE, REGISTRY, Sender
from portway_testkit.fakes import known_routes
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.known_routes import KnownRoutes
from portway_testkit.signers import NOW_MS, SessionSigner, label_of

NODES: Final = ("a", "b", "c")
HOSTILE_NODE: Final = "a"
KEYS: Final = (SigningKey(b"\x05" * 32), SigningKey(b"\x06" * 32))
BEGINNING: Final = 1_000_000.0  # of the nodes' own clock; the registry's says NOW_MS then
SEEDS: Final = 60
STEPS: Final = 60
# Seconds between two steps, sometimes: a moment, less than a renewal, more than one, as long as nothing counts for.
PAUSES: Final = (0.1, 1.0, 30.0, 200.0, 400.0, 900.0, 2_500.0)
# Seconds after which a route that was asked about is asked about again, and a moment.
ASKED_AGAIN: Final = 61.0


class LedAstray(AssertionError):
    """A visitor was led where the client's tunnel is not."""


@dataclass
class Shown:
    """A claim and the presence that was signed with it."""

    claim: Claim
    presence: Presence


def session_of(number: int) -> SessionSigner:
    """With the same key in each run."""
    return SessionSigner(key=SigningKey(b"session" + number.to_bytes(25)))


@dataclass
class World:
    """One client, the nodes that its statements went to, and the node whose routes are tried."""

    rng: random.Random
    clock: ManualClock = field(default_factory=lambda: ManualClock(BEGINNING))
    signer: SessionSigner = field(default_factory=lambda: session_of(1))
    thief: SessionSigner = field(default_factory=lambda: session_of(0))
    sessions: int = 1  # of the client, so far
    home: str = "a"
    epoch: int = NOW_MS
    signed: list[Shown] = field(default_factory=list)  # all of the client's
    claims: dict[str, Claim] = field(default_factory=dict)  # of the open tunnels, by label
    presence: Presence | None = None
    # When each label was last at each node, really; and when it was last moved, opened or closed.
    placed_at: dict[tuple[str, str], float] = field(default_factory=dict)
    changed_at: dict[str, float] = field(default_factory=dict)
    # What honest parties have shown the node that is tried: the highest claim of each label, each session's presence.
    told: dict[str, Claim] = field(default_factory=dict)
    told_presences: dict[bytes, Presence] = field(default_factory=dict)  # by session key
    registry_since: float = 0.0  # when it began to answer, or will

    def __post_init__(self) -> None:
        self.restart()
        self.move()

    # What the client does.

    def move(self) -> None:
        """It binds its tunnels at another node."""
        self.home = self.rng.choice(NODES)
        for key in KEYS:
            if not self.claims or label_of(key) in self.claims:
                self.bind(key)
        self.present()

    def bind(self, key: SigningKey) -> None:
        self.epoch += 1
        self.claims[label_of(key)] = self.signer.claim(key, node=self.home, epoch=self.epoch)
        self.changed_at[label_of(key)] = self.clock.now

    def start_again(self) -> None:
        """The program is started again, with its key files: another session."""
        self.sessions += 1
        self.signer = session_of(self.sessions)
        self.move()

    def open(self) -> None:
        self.bind(self.rng.choice(KEYS))
        self.present()

    def close(self) -> None:
        """It closes one tunnel and keeps the other, if it has one."""
        if len(self.claims) > 1:
            label = self.rng.choice(sorted(self.claims))
            del self.claims[label]
            self.changed_at[label] = self.clock.now
            self.present()

    def present(self) -> None:
        """It signs a presence; the home node hears it, and may tell the others."""
        self.signer.held[:] = self.claims.values()
        self.presence = self.signer.present(self.home, *self.claims.values(), time_ms=self.tried.now_ms)
        self.signed += [Shown(claim, self.presence) for claim in self.claims.values()]
        self.clock.now += 0.001
        self.note()

    def note(self) -> None:
        """Where the tunnels are at this moment."""
        for label, claim in self.claims.items():
            self.placed_at[label, claim.node] = self.clock.now

    # What honest nodes and a registry do.

    def tell(self) -> None:
        """The home, if it is honest, announces what it holds."""
        if self.home == HOSTILE_NODE:
            return
        for claim in self.claims.values():
            self.tried.hear(self.home, claim, self.presence)
            self.told[claim.label] = claim
        self.tell_presence()

    def tell_presence(self) -> None:
        if self.presence is not None:
            self.told_presences[self.presence.session_key] = self.presence

    def answer(self, label: str) -> None:
        """The node asks the registry about a label."""
        claim = self.claims.get(label)
        if self.registry_since <= self.clock.now and claim is not None and self.presence is not None:
            self.tried.routes.hear_presence(REGISTRY, self.presence)
            self.tried.routes.hear_claim(REGISTRY, claim)
            self.tried.settle(label)
            self.told[label] = claim
            self.tell_presence()
        self.tried.routes.asked(label)

    # What the hostile node does. It knows all that the client has signed.

    def replay(self) -> None:
        shown = self.rng.choice(self.signed)
        self.show(shown.claim, shown.presence)

    def mix(self) -> None:
        """A claim with the presence of another time."""
        self.show(self.rng.choice(self.signed).claim, self.rng.choice(self.signed).presence)

    def keep_one(self) -> None:
        """The newest presence, with whatever was closed since."""
        self.show(self.rng.choice(self.signed).claim, self.presence)

    def sign_itself(self) -> None:
        """A presence by the thief's own session key that lists the client's claim."""
        claim = self.rng.choice(self.signed).claim
        self.show(claim, self.thief.present(claim.node, claim, time_ms=self.tried.now_ms))

    def hand_over(self) -> None:
        """The client's claim, listed by the thief's client for a node of its choice."""
        claim = self.rng.choice(self.signed).claim
        self.show(claim, self.thief.present(self.rng.choice(NODES), claim, time_ms=self.tried.now_ms))

    def forge(self) -> None:
        """The client's statements with another node's name, or a later time, in them."""
        shown, node = self.rng.choice(self.signed), self.rng.choice(NODES)
        claim = read_claim(shown.claim.encoded.replace(b"\x01" + shown.claim.node.encode(), b"\x01" + node.encode(), 1))
        now = self.tried.now_ms.to_bytes(8)
        encoded = shown.presence.encoded
        presence = read_presence(encoded[:32] + now + b"\x01" + node.encode() + encoded[42:])
        presence = replace(presence, ids=presence.ids | {claim.id})
        self.show(claim, self.rng.choice((shown.presence, presence)))
        self.show(None, presence)

    def flush(self) -> None:
        """Invented labels, more than one sender's share."""
        for number in range(12):
            invented = self.thief.claim(SigningKey(number.to_bytes(32, "little")), node="c", epoch=NOW_MS)
            session = SessionSigner(key=SigningKey((number + 99).to_bytes(32, "little")))
            self.show(invented, session.present("c", invented, time_ms=self.tried.now_ms))

    def show(self, claim: Claim | None, presence: Presence | None) -> None:
        self.tried.hear(HOSTILE_NODE, claim, presence)

    # What befalls the node that is tried.

    def restart(self) -> None:
        """Its memory is empty, and it is young."""
        self.tried = KnownRoutes(self.clock, young=True)
        self.tried.ahead = NOW_MS / 1000 - BEGINNING
        self.told, self.told_presences = {}, {}
        self.started_at = self.clock.now

    def lose_registry(self) -> None:
        self.registry_since = self.clock.now + self.rng.choice(PAUSES)

    def wait(self) -> None:
        self.clock.now += self.rng.choice(PAUSES)
        if self.rng.random() < 0.7:
            self.present()

    # Visitors.

    def visit(self, label: str) -> None:
        """One visitor, as Lookup.find leads it: by what is known, else after asking. Raises LedAstray."""
        self.tried.settle(label)
        route = self.tried.routes.usable(label)
        if route is None:
            self.answer(label)
            route = self.tried.routes.placed(label)
        if route is not None:
            self.judge(label, route.claim)

    def judge(self, label: str, led: Claim) -> None:
        now, claim = self.clock.now, self.claims.get(label)
        if claim is not None and claim.node == led.node:
            return
        # The client is not there. It was, within the last minutes, and this node had no way to know better.
        was_there = self.placed_at.get((label, led.node))
        if was_there is None:
            raise LedAstray("the client has never been there")
        if label in self.told and self.told[label].rank > led.rank:
            raise LedAstray("an honest party has shown a claim of higher rank")
        listed = max(shown.presence.time_ms for shown in self.signed if shown.claim.encoded == led.encoded)
        told = self.told_presences.get(led.session_key)
        if told is not None and told.time_ms > listed:
            raise LedAstray("an honest party has shown that the tunnel is closed, or elsewhere")
        if now - was_there > PRESENCE_FRESH + CLOCK_LEEWAY:
            raise LedAstray("no presence can be fresh for so long")
        if claim is None or now - self.registry_since < ASKED_AGAIN:
            return  # a registry that has no tunnel removes no route: it may be behind
        if now - was_there > PRESENCE_FRESH + ASKED_AGAIN:
            raise LedAstray("the renewal was overdue, and a registry knew better")
        if self.started_at > self.changed_at[label] and now - self.started_at < YOUNG:
            raise LedAstray("a young node asks a registry, which knew better")


CLIENT: Final = (World.move, World.start_again, World.open, World.close, World.present)
HONEST: Final = (World.tell, World.tell, World.restart, World.lose_registry, World.wait, World.wait)
HOSTILE: Final = (World.replay, World.mix, World.keep_one, World.sign_itself, World.hand_over, World.forge, World.flush)


def explore(seed: int) -> None:
    """One run of the model. Raises LedAstray."""
    rng = random.Random(seed)
    world = World(rng)
    for _ in range(STEPS):
        rng.choice(rng.choice((CLIENT, HONEST, HOSTILE, HOSTILE)))(world)
        world.note()
        for key in KEYS:
            if rng.random() < 0.5:
                world.visit(label_of(key))


def explore_all() -> None:
    """Five times as many runs as without a rule taken out."""
    for seed in range(SEEDS * 5):
        explore(seed)


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories that a few statements fill."""
    monkeypatch.setattr(senders, "_SHARES", dict.fromkeys(senders._SHARES, (10, 10)))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_visitor_is_led_where_the_client_has_not_been_in_the_last_minutes(seed: int) -> None:
    """Whatever a hostile node shows, withholds or invents."""
    explore(seed)


def _lists_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """A presence places every claim of its session at its node."""
    monkeypatch.setattr(
        Presence,
        "places",
        lambda self, claim: (claim.session_key, claim.node) == (self.session_key, self.node),
    )


def _of_any_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lists a claim places it."""
    presences = heard.Heard.presences

    def all_sessions(self: heard.Heard, session_key: bytes) -> Any:
        keys = {session_key} | {
            key for kind in self._presences._kinds.values() for said in kind._by_sender.values() for key in said
        }
        found = [word for key in keys for word in presences(self, key)]
        return sorted(found, key=lambda word: word.time_ms, reverse=True)

    monkeypatch.setattr(heard.Heard, "presences", all_sessions)
    monkeypatch.setattr(Presence, "places", lambda self, claim: claim.id in self.ids)


def _presences_of_the_teller_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node's own word on a session counts beside its claim, whatever others have shown."""
    decide = routes.Routes._newest

    def newest(self: Any, session_key: bytes) -> Any:
        mine = {self._routes[label].claim.node for label in self._labels.get(session_key, ())}
        told = [word for word in self._heard.presences(session_key) if word.genuine and word.genuine.node in mine]
        return told[0] if told else decide(self, session_key)

    monkeypatch.setattr(routes.Routes, "_newest", newest)


def _lowest_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first claim that was signed counts."""
    monkeypatch.setattr(
        heard.Heard, "claims", lambda self, label: sorted(self._claims.all(label), key=lambda word: word.claim.rank)
    )


def _one_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes share one memory."""
    monkeypatch.setattr(known_routes, "node", lambda name: Sender(NODE, "everybody"))


def _unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements.Signed, "is_genuine", lambda self: True)


def _without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "PRESENCE_FRESH", 1e9)
    monkeypatch.setattr(statements.Presence, "is_fresh", lambda self, now_ms: True)


def _never_overdue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A route is used as long as its presence counts."""
    monkeypatch.setattr(routes, "CLOCK_LEEWAY", 0.0)
    monkeypatch.setattr(routes, "PRESENCE_FRESH", PRESENCE_FRESH + CLOCK_LEEWAY)


def _never_young(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "YOUNG", 0.0)


RULES: Final[dict[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "statements are signed": _unsigned,
    "a presence lists what it places": _lists_anything,
    "claim and presence are of one session key": _of_any_session,
    "the latest presence counts, whoever shows it": _presences_of_the_teller_alone,
    "the highest rank counts": _lowest_rank,
    "a presence ends": _without_end,
    "an overdue route is asked about": _never_overdue,
    "a young node asks": _never_young,
    "each sender has a share of memory": _one_memory,
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_needed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the same exploration finds a visitor who is led astray."""
    RULES[rule](monkeypatch)
    with pytest.raises(LedAstray):
        explore_all()

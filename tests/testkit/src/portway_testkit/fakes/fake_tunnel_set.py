"""The tunnels of a client's link without the link: fake sessions to bind them on, and an owner that notes its calls."""

import asyncio

from portway.engine.dialogue import BindRequest, SessionCredentials, TunnelBound
from portway.engine.failures import Failure
from portway.engine.held_tunnel import HeldTunnel
from portway.engine.presences import Presences
from portway.engine.session import BindRefused, SessionOver
from portway.engine.signer import Signer
from portway.engine.tunnel_set import TunnelSet
from portway.errors import Error
from portway_proto.v1.lane_pb2 import FailureCode
from portway_proto.wire.statements import Presence
from portway_runtime.clocks import RegistryClock
from portway_runtime.tasks import Tasks

from portway_testkit.fakes.fake_link import FakeDirectory, node
from portway_testkit.signers import CLUSTER_ID, NOW_MS

EPOCH = Failure(FailureCode.FAILURE_CODE_EPOCH, "taken")


class FakeSession:
    """Answers BIND with what `answers` has next, and with BOUND when it has nothing."""

    def __init__(self, key: bytes = b"one") -> None:
        self.credentials = SessionCredentials(key, b"secret")
        self.up = True
        self.answers: list[Exception] = []
        self.binds: list[BindRequest] = []
        self.unbinds: list[str] = []
        self.presences: list[Presence] = []
        self.node = node(key.decode())

    async def bind(self, bind: BindRequest) -> TunnelBound:
        assert self.presences[-1].places(bind.claim)
        await asyncio.sleep(0)
        if not self.up:
            raise SessionOver("gone")
        self.binds.append(bind)
        if self.answers:
            raise self.answers.pop(0)
        return TunnelBound(len(self.binds), "a.test", 443, "", 0, b"")

    def present(self, presence: Presence, grant: str) -> None:
        self.presences.append(presence)

    def unbind(self, label: str) -> None:
        self.unbinds.append(label)

    @property
    def epochs(self) -> list[int]:
        """From the time of the test on, beginning with 1."""
        return [bind.claim.epoch - NOW_MS + 1 for bind in self.binds]


class Owner:
    """The owner of a TunnelSet: clocks, tasks, how often it was empty, and what nodes refused.

    A refusal is final with `final`; with `elsewhere` another node is to be tried.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.times_empty = 0
        self.doubted: list[Failure] = []
        self.final: Error | None = None
        self.elsewhere = False
        self.asked_time = 0
        self.tasks = Tasks("test")
        self.signer = Signer(RegistryClock(lambda: 0.0, lambda: 0.0))
        self.signer.learn(CLUSTER_ID, NOW_MS)
        self.presences = Presences(FakeDirectory(), self.signer, lambda: self.now)  # type: ignore[arg-type]
        self.tunnels = TunnelSet(self.tasks, self, self.signer, self.presences, lambda: self.now)

    def session(self, key: bytes = b"one") -> FakeSession:
        """The current session from now on."""
        session = FakeSession(key)
        self.presences.begin(session, resumed=False)  # type: ignore[arg-type]
        return session

    async def refused(self, session: object, held: HeldTunnel, failure: Failure) -> bool:
        self.doubted.append(failure)
        if self.final is not None:
            raise self.final
        return self.elsewhere

    async def out_of_time(self, session: object) -> None:
        self.asked_time += 1

    def emptied(self) -> None:
        self.times_empty += 1

    async def settled(self) -> None:
        """Until nothing is tried in the background any more."""
        while self.tasks._tasks:
            await asyncio.wait(set(self.tasks._tasks))


def shown(owner: Owner, held: HeldTunnel, above: int, by: Signer | None = None) -> BindRefused:
    """EPOCH with a claim so many epochs above the time of the test, by another program with the same key or `by`."""
    by = by or other_program()
    return BindRefused(EPOCH, by.claim(held._key, NOW_MS + above, "two", b"").encoded)


def other_program() -> Signer:
    signer = Signer()
    signer.learn(CLUSTER_ID, NOW_MS)
    return signer

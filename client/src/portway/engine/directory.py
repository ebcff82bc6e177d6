"""What the registries last answered: candidate nodes, the CA to trust them by, and a grant that is kept fresh.

Directory lives on the engine's loop. The calls behind it block, so each runs on a thread of its own (`on_thread`). Not
here: the calls themselves (grpc_registries.py).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, Protocol, TypeVar

from portway_runtime.clocks import Monotonic, monotonic
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import NoThread
from portway_runtime.proxies import Proxy
from portway_runtime.tasks import fail
from portway_runtime.threads import start_thread

from portway.engine.signer import Signer
from portway.errors import AuthError, Error, UnreachableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds. A grant is valid for half an hour after renewal is due, and honoured long after that.
RENEW_RETRY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """A relay node to dial, through the proxy `via` if there is one."""

    name: str
    region: str
    address: Endpoint
    server_name: str
    domain: str
    via: Proxy | None = None

    @property
    def zone(self) -> str:
        """What follows the label and a dot in the addresses of its tunnels."""
        return f"{self.region}.{self.domain}"


@dataclass(frozen=True, slots=True)
class Grant:
    """A registry's permission to attach to nodes. It is to be renewed `renew_after` seconds after it was received."""

    token: str = field(repr=False)
    renew_after: float


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The measured round trip to the node named `node`, in milliseconds; with `at_least` only a lower bound."""

    node: str
    ms: float
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """The round trip that a registry expects, in milliseconds; 0 if it cannot say.

    learned: clients near this one have measured it. load_ms: what the node's load adds to it in the order of nodes.
    """

    ms: float
    learned: bool
    load_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Located:
    """A registry's answer to Locate. `nodes` are in the order to try them; `expected` is by node name.

    registry_time_ms: milliseconds since the Unix epoch; 0 if it said none.
    """

    nodes: tuple[Node, ...]
    cluster_ca: bytes = field(repr=False)
    grant: Grant
    expected: Mapping[str, Expected] = field(default_factory=dict)
    cluster_id: str = ""
    registry_time_ms: int = 0


@dataclass(frozen=True, slots=True)
class Renewed:
    """A registry's answer to Renew; `registry_time_ms` as in Located. `cluster_ca` is empty from an earlier release."""

    grant: Grant
    registry_time_ms: int = 0
    cluster_ca: bytes = field(default=b"", repr=False)


class Registries(Protocol):
    """Asks the registries; grants are for `session_key`. Each call blocks, and raises Error."""

    def locate(self, session_key: bytes, new_tunnels: int, limit: int) -> Located: ...

    def renew(self, session_key: bytes) -> Renewed: ...

    def report(self, round_trips: Sequence[RoundTrip]) -> None: ...


class Directory:
    """Holds the last answer in `located`; None before the first. `signer` learns cluster and time from each."""

    def __init__(self, registries: Registries, signer: Signer, clock: Monotonic = monotonic) -> None:
        self._registries = registries
        self._signer = signer
        self._clock = clock
        self._renew_at = 0.0
        self._named: tuple[str, ...] = ()  # two names that a registry has given, if there are two
        self.located: Located | None = None
        # Each is called with the CAs of nodes (PEM) of each answer, before the grant that came with them is used.
        self.on_cluster_ca: list[Callable[[bytes], None]] = []

    def has_named_another(self, node: str) -> bool:
        """Whether a registry has ever named another node: one that takes no clients now may again."""
        return any(name != node for name in self._named)

    async def locate(self, new_tunnels: int = 0, limit: int = 0) -> Located:
        """Ask now, for `limit` candidates if it is not 0. Raises Error, QuotaError when there is no room for
        `new_tunnels`; the answer before then stays."""
        session_key = self._signer.session_key
        located = await ask_on_thread(lambda: self._registries.locate(session_key, new_tunnels, limit))
        self._signer.learn(located.cluster_id, located.registry_time_ms)
        self._renew_at = self._clock() + located.grant.renew_after
        self.located = located
        self._tell_cluster_ca()
        self._named = tuple(dict.fromkeys((*self._named, *(node.name for node in located.nodes))))[:2]
        return located

    async def renew(self) -> None:
        """Get a fresh grant. Raises Error; the grant before then stays in use."""
        session_key = self._signer.session_key
        renewed = await ask_on_thread(lambda: self._registries.renew(session_key))
        self._signer.learn_time(renewed.registry_time_ms)
        if self.located is not None and session_key == self._signer.session_key:
            cluster_ca = renewed.cluster_ca or self.located.cluster_ca
            self.located = replace(self.located, grant=renewed.grant, cluster_ca=cluster_ca)
            self._tell_cluster_ca()
            self._renew_at = self._clock() + renewed.grant.renew_after

    def _tell_cluster_ca(self) -> None:
        if self.located is not None:
            for trust in self.on_cluster_ca:
                trust(self.located.cluster_ca)

    async def report(self, round_trips: Sequence[RoundTrip]) -> None:
        """Tell a registry what was measured. Raises Error."""
        await ask_on_thread(lambda: self._registries.report(round_trips))

    def renewal_due_in(self) -> float:
        """Seconds until the grant is to be renewed; 0 if it is overdue."""
        return max(0.0, self._renew_at - self._clock())

    async def keep_renewed(self) -> NoReturn:
        """Renew the grant whenever it is due, so that losing a node while no registry can be reached does no harm.
        The node sees it with the next presence."""
        while True:
            await asyncio.sleep(self.renewal_due_in())
            if self.renewal_due_in() > 0:
                continue  # Locate has brought a new one meanwhile
            try:
                await self.renew()
            except AuthError as error:
                logger.warning("the registry does not renew the grant: %s", error)
                await asyncio.sleep(RENEW_RETRY)
            except Error as error:
                logger.info("the grant could not be renewed now: %s", error)
                await asyncio.sleep(RENEW_RETRY)


async def ask_on_thread(ask: Callable[[], T]) -> T:
    """`on_thread` for a question to registries: without a thread none of them can be reached."""
    try:
        return await on_thread(ask)
    except NoThread as error:
        raise UnreachableError(f"no registry could be asked: {error}", lasting=True) from None


async def on_thread(function: Callable[[], T]) -> T:
    """Run a blocking call on a daemon thread, so that one that hangs does not keep its program from ending.

    Cancelled, the call goes on, and its result is dropped. Raises NoThread.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if error is not None:
            fail(answer, error)
        elif not answer.done():
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            pass  # the engine has ended meanwhile

    start_thread(run, "portway call")
    return await answer

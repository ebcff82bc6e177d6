"""What the registries last said: which nodes there are, the CA to trust them by, a grant that is kept fresh.

Directory lives on the engine's loop; the calls behind it block, each on a thread of its own (registries.py).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, Protocol, TypeVar

from portway_runtime.endpoints import Endpoint

from portway.errors import AuthError, Error

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A grant is good for an hour after renewal is due, and honoured long after: no hurry.
RENEW_RETRY: Final = 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """A relay node to dial."""

    name: str
    region: str
    address: Endpoint
    server_name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A registry's permission. `renew_after` is how many seconds after it came the next one is due."""

    token: str = field(repr=False)
    renew_after: float


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """How far a node is, by its name, in milliseconds; `at_least`: it was not waited for any longer."""

    node: str
    ms: float
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """What a registry expects of a node's round trip, in milliseconds, and whether clients near this one said so."""

    ms: float
    learned: bool


@dataclass(frozen=True, slots=True)
class Located:
    """A registry's answer; nodes are in the order to try them, `expected` is by their names."""

    nodes: tuple[Node, ...]
    cluster_ca: bytes = field(repr=False)
    grant: Grant
    expected: Mapping[str, Expected] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SurveyedNode:
    """A node as a registry describes it to people. `state` is ready, full, cordoned or draining."""

    node: Node
    state: str
    expected: Expected
    distance_km: float
    load_ms: int


@dataclass(frozen=True, slots=True)
class Survey:
    """Every region, those that take clients first, in their order; and this client as a registry sees it.

    `total` is how many nodes there are. `position` is latitude and longitude, None when GeoIP does not know.
    """

    registry: str
    nodes: tuple[SurveyedNode, ...]
    total: int
    cluster_ca: bytes = field(repr=False)
    address: str = ""
    country: str = ""
    position: tuple[float, float] | None = None


class Registries(Protocol):
    """Where answers come from. Each call blocks; each raises Error."""

    def locate(self) -> Located: ...

    def renew(self) -> Grant: ...

    def report(self, round_trips: Sequence[RoundTrip]) -> None: ...

    def survey(self) -> Survey: ...


class Directory:
    """What the registries last said; None before they said anything."""

    def __init__(self, registries: Registries, clock: Callable[[], float] = time.monotonic) -> None:
        self._registries = registries
        self._clock = clock
        self._renew_at = 0.0
        self.located: Located | None = None

    async def locate(self) -> Located:
        """Ask now. Raises as `Registries`; what was known before stays known."""
        located = await on_thread(self._registries.locate)
        self._renew_at = self._clock() + located.grant.renew_after
        self.located = located
        return located

    async def renew(self) -> None:
        """Get a fresh grant. Raises as `Registries`; the grant before stays in use."""
        grant = await on_thread(self._registries.renew)
        if self.located is not None:
            self.located = replace(self.located, grant=grant)
            self._renew_at = self._clock() + grant.renew_after

    async def report(self, round_trips: Sequence[RoundTrip]) -> None:
        """Tell what was measured. Raises as `Registries`."""
        await on_thread(lambda: self._registries.report(round_trips))

    def renewal_due_in(self) -> float:
        """Seconds until the grant should be renewed; 0 when it is overdue."""
        return max(0.0, self._renew_at - self._clock())

    async def keep_renewed(self) -> NoReturn:
        """Renew the grant whenever it is due, so that a registry may be away when a node is lost."""
        while True:
            await asyncio.sleep(self.renewal_due_in())
            if self.renewal_due_in() > 0:
                continue  # there was a new one meanwhile
            try:
                await self.renew()
            except AuthError as error:
                logger.warning("the registry does not renew the grant: %s", error)
                await asyncio.sleep(RENEW_RETRY)
            except Error as error:
                logger.info("the grant could not be renewed now: %s", error)
                await asyncio.sleep(RENEW_RETRY)


async def on_thread(function: Callable[[], T]) -> T:
    """Run a blocking call on a daemon thread: one that hangs must not keep its program from ending."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
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

    threading.Thread(target=run, name="portway registry", daemon=True).start()
    return await answer

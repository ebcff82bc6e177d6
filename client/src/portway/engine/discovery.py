"""What the registries last said: which nodes there are, the CA to trust them by, a grant that is kept fresh.

Directory lives on the engine's loop; the calls behind it block, each on a thread of its own (registries.py).
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, NoReturn, Protocol, TypeVar

from portway_proto.carry.contract import Address

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
    address: Address
    server_name: str


@dataclass(frozen=True, slots=True)
class Grant:
    """A registry's permission. `renew_after` is how many seconds after it came the next one is due."""

    token: str = field(repr=False)
    renew_after: float


@dataclass(frozen=True, slots=True)
class Located:
    """A registry's answer; nodes are in the order to try them."""

    nodes: tuple[Node, ...]
    cluster_ca: bytes = field(repr=False)
    grant: Grant


class Registries(Protocol):
    """Where answers come from. Both calls block; both raise Error."""

    def locate(self) -> Located: ...

    def renew(self) -> Grant: ...


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

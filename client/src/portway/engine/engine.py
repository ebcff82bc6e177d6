"""Engine: all open tunnels of the process, on one event loop. One link for all tunnels with equal settings.

Not here: the thread that the loop runs on (engine_thread.py), the caller's side of a tunnel (tunnel_handle.py).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from portway_carrier.contract import Carrier
from portway_carrier.values import Counters
from portway_runtime.endpoints import parse_endpoint
from portway_runtime.errors import NoThread
from portway_runtime.tasks import Tasks

from portway.config import GEOIP, Settings
from portway.engine.directory import Directory, Registries, on_thread
from portway.engine.grpc_registries import GrpcRegistries
from portway.engine.held_tunnel import HeldTunnel, LocalAddress
from portway.engine.link import Link
from portway.engine.punctuality import Punctuality
from portway.engine.race_rule import RACERS
from portway.engine.return_rule import ReturnRule
from portway.engine.signer import Signer
from portway.errors import ConfigError, InvalidError, RemoteError, UnreachableError
from portway.fork_guard import fork_guard
from portway.tunnel import TunnelRequest

if TYPE_CHECKING:
    from portway.engine.key_file import KeyFile  # imported late: most tunnels have none


@dataclass(frozen=True, slots=True)
class Status:
    """The state of this process's tunnels. `trouble`: why a link is not attached, "" if all are."""

    tunnels: int
    attached: bool
    trouble: str
    counters: Counters


class Engine:
    """Made, used and closed on one event loop."""

    def __init__(
        self,
        carrier: Carrier,
        on_failure: Callable[[BaseException], None],
        registries: Callable[[Settings], Registries] = GrpcRegistries,
    ) -> None:
        """`on_failure` is called when a background task ends early."""
        self.carrier = carrier
        self._registries = registries
        self._tasks = Tasks("portway", on_failure)
        self._links: dict[Settings, Link] = {}
        self._tunnels: dict[LocalAddress, HeldTunnel] = {}
        self._punctuality = Punctuality(wanted=lambda: self._tunnels)

    async def open(self, request: TunnelRequest) -> HeldTunnel:
        """Open a tunnel, with the key of its key file or one of its own. Raises Error. Cancelled, it leaves nothing
        behind but a key file."""
        until = asyncio.get_running_loop().time() + request.timeout
        key_file = await _read_key_file(request, until) if request.key else None
        address = (request.port, request.host)
        if address in self._tunnels:
            where = f"port {request.port}" if request.host is None else f"{request.host}:{request.port}"
            raise InvalidError(f"{where} is forwarded already: close that tunnel first, or use it")
        held = HeldTunnel(request, self._forget, key_file)
        if key_file is not None:
            self._demand_unused(held.label, key_file)
        self._tunnels[address] = held
        link = self._link(request.settings)
        try:
            async with asyncio.timeout_at(until):
                await link.bind(held)
        except TimeoutError:
            self._forget(held)
            if held.postponed is not None:
                raise held.postponed from None
            why = "" if link.attempts else ": is the network slow? raise timeout="
            if link.failure is not None:
                why = f": {link.failure.what}"
            way = request.settings.proxies.way_to(parse_endpoint(request.settings.registries[0]))
            through = f", through {way}" if way is not None else ""
            raise UnreachableError(f"no tunnel within {request.timeout:g} s{through}{why}", link.attempts) from None
        except BaseException:
            self._forget(held)
            raise
        self._punctuality.begin()
        return held

    def release(self, held: HeldTunnel) -> None:
        """Close a tunnel. Can be called again."""
        self._forget(held)
        self._link(held.request.settings).release(held)

    def withdraw(self, request: TunnelRequest) -> None:
        """Close the tunnel that `open` made of this very request, if it was made: its opener has given up."""
        for held in list(self._tunnels.values()):
            if held.request is request:
                self.release(held)

    def status(self) -> Status:
        """The state now."""
        detached = [link for link in self._links.values() if not link.attached]
        return Status(
            len(self._tunnels),
            not detached,
            next((link.trouble for link in detached if link.trouble), ""),
            self.carrier.counters,
        )

    async def close(self, failure: BaseException | None = None) -> None:
        """Close every tunnel. After an internal failure they count as lost."""
        self._punctuality.end()
        if failure is not None:
            for link in self._links.values():
                link.lose_all(RemoteError(f"Portway failed inside this process ({failure!r}): please report it"))
        async with asyncio.TaskGroup() as closing:
            for link in self._links.values():
                closing.create_task(link.close())
        await self._tasks.close()
        await self.carrier.close()

    def _link(self, settings: Settings) -> Link:
        link = self._links.get(settings)
        if link is None:
            signer = Signer()
            directory = Directory(self._registries(settings), signer)
            by_location = settings.strategy == GEOIP
            times = settings.returns
            link = self._links[settings] = Link(
                self.carrier,
                directory,
                signer,
                self._tasks,
                racers=1 if by_location else RACERS,
                returning=None if times is None else ReturnRule(times, by_location=by_location),
            )
        return link

    def _demand_unused(self, label: str, key_file: "KeyFile") -> None:
        """Two tunnels of one program with one key would take the label from each other."""
        for held in self._tunnels.values():
            if held.label == label:
                raise InvalidError(
                    f"the tunnel of port {held.request.port} has the URL of the key file {key_file.path} already: "
                    'name another file with key=, or pass key="" for a random URL'
                )

    def _forget(self, held: HeldTunnel) -> None:
        """Its local address may be forwarded again."""
        if self._tunnels.get(held.local_address) is held:
            del self._tunnels[held.local_address]


async def _read_key_file(request: TunnelRequest, until: float) -> "KeyFile":
    """On a thread of its own: a slow disk must stop neither the tunnels in use nor the program's event loop. Raises
    ConfigError."""

    def read() -> "KeyFile":
        with fork_guard:
            from pathlib import Path

            from portway.engine.key_file import KeyFile

        return KeyFile(Path(request.key), None if request.before is None else request.before.private_key)

    try:
        async with asyncio.timeout_at(until):
            return await on_thread(read)
    except TimeoutError:
        raise ConfigError(
            f"the key file {request.key} could not be read within {request.timeout:g} s: name one on another disk"
        ) from None
    except NoThread as error:
        raise ConfigError(f"the key file {request.key} could not be read: {error}") from None

"""`forward()`: arguments are kept, checked on enter, and given to the engine; nothing heavy is imported before that.

Here: the with-block, its async twin and the decorator. Not here: what a tunnel needs to come to be (engine/).
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from portway.config import LATENCY, Settings, resolve
from portway.errors import InvalidError, TunnelLostError
from portway.fork_guard import fork_guard
from portway.tunnel import Tunnel

if TYPE_CHECKING:
    from portway.engine.tunnel_handle import TunnelHandle

Function = TypeVar("Function", bound=Callable[..., Any])
TunnelLost = Callable[[TunnelLostError], None]

TUNNEL_PARAMETER = "tunnel"


@dataclass(frozen=True, slots=True)
class TunnelRequest:
    """One tunnel to open, checked. `timeout` is in seconds."""

    port: int
    host: str | None
    unencrypted: bool
    h2_enabled: bool
    timeout: float
    settings: Settings
    tunnel_lost: TunnelLost | None = None


@dataclass(frozen=True, slots=True)
class Arguments:
    """What `forward` was called with, unchecked: any caller's objects."""

    port: Any
    unencrypted: bool
    h2_enabled: bool
    host: Any
    timeout: Any
    registry: str | Sequence[str] | None
    token: str | None
    ca: str | os.PathLike[str] | None
    region: str | None
    strategy: Any
    tunnel_lost: TunnelLost | None

    def checked(self) -> TunnelRequest:
        """The request they make now. Raises InvalidError, ConfigError, AuthError."""
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise InvalidError(f"the port is an int between 1 and 65535, not {self.port!r}")
        if not 1 <= self.port <= 65535:
            raise InvalidError(f"{self.port} is no port: give one between 1 and 65535")
        if self.h2_enabled and self.unencrypted:
            raise InvalidError("h2_enabled cannot be combined with unencrypted: open two tunnels, or leave one out")
        if self.host is not None and not _is_host(self.host):
            raise InvalidError(f"the host is a name or an IP address, not {self.host!r}; leave it out for this machine")
        timeout = self.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise InvalidError(f"the timeout is a number of seconds above 0, not {timeout!r}")
        settings = resolve(
            registry=self.registry, token=self.token, ca=self.ca, region=self.region, strategy=self.strategy
        )
        return TunnelRequest(
            self.port,
            self.host,
            bool(self.unencrypted),
            bool(self.h2_enabled),
            float(timeout),
            settings,
            self.tunnel_lost,
        )


def _is_host(host: object) -> bool:
    """Whether a resolver can be asked for it: it need not exist."""
    if not isinstance(host, str) or not host.isprintable() or any(character in " /[]" for character in host):
        return False
    return ":" in host or all(1 <= len(part) <= 63 for part in host.removesuffix(".").split("."))


class Forwarding:
    """What `forward(...)` returns: a context manager, plain and async, and a decorator.

    It may be used many times, one after the other. On leaving the block the tunnel is closed; when it had been lost
    for good and the block itself raised nothing, TunnelLostError is raised.
    """

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._opening: TunnelHandle | None = None

    def __enter__(self) -> Tunnel:
        opening = self._begin()
        try:
            tunnel = opening.result()
        except BaseException:
            opening.withdraw()
            raise
        self._opening = opening
        return tunnel

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            self._tell(opening.close(), error)

    async def __aenter__(self) -> Tunnel:
        opening = self._begin()
        try:
            tunnel = await opening.wait()
        except BaseException:
            opening.withdraw()
            raise
        self._opening = opening
        return tunnel

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            self._tell(await opening.wait_closed(), error)

    def __call__(self, function: Function) -> Function:
        """Open a tunnel around each call of `function`; a parameter named `tunnel` is given it."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidError("forward() cannot decorate a generator: open the tunnel inside it, in a with-block")
        signature = inspect.signature(function)
        wanted = TUNNEL_PARAMETER in signature.parameters

        def given(tunnel: Tunnel) -> dict[str, Tunnel]:
            return {TUNNEL_PARAMETER: tunnel} if wanted else {}

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                async with Forwarding(self._arguments) as tunnel:
                    return await function(*args, **(kwargs | given(tunnel)))

            wrapper: Any = call_async
        else:

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                with Forwarding(self._arguments) as tunnel:
                    return function(*args, **(kwargs | given(tunnel)))

            wrapper = call
        left = [parameter for name, parameter in signature.parameters.items() if name != TUNNEL_PARAMETER]
        wrapper.__signature__ = signature.replace(parameters=left)
        return cast(Function, wrapper)

    def _begin(self) -> "TunnelHandle":
        if self._opening is not None and self._opening.ours:
            raise InvalidError("this forward() is open already: call forward() again for another tunnel")
        request = self._arguments.checked()
        with fork_guard:
            from portway.engine.engine_thread import running_engine
            from portway.engine.tunnel_handle import TunnelHandle

        return TunnelHandle(running_engine(), request)

    @staticmethod
    def _tell(lost: TunnelLostError | None, error: BaseException | None) -> None:
        if lost is not None and error is None:
            raise lost


class _Forward:
    """`forward` itself: a function that has `aio`, as Modal's does."""

    def __call__(
        self,
        port: int,
        *,
        unencrypted: bool = False,
        h2_enabled: bool = False,
        host: str | None = None,
        timeout: float = 10,
        registry: str | Sequence[str] | None = None,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        region: str | None = None,
        strategy: str = LATENCY,
        tunnel_lost: TunnelLost | None = None,
    ) -> Forwarding:
        """Put a local port on the Internet for as long as a with-block runs.

            with portway.forward(8000) as tunnel:
                print(tunnel.url)

        The same object works in `async with`, and as a decorator of plain and async functions. Nothing is checked
        or done before it is entered.

        unencrypted: a random TCP port without TLS, in addition to the https:// address.
        h2_enabled: offer HTTP/2 to visitors that speak nothing else, such as gRPC clients.
        host: where the port is; this machine (127.0.0.1, then ::1) when left out.
        timeout: seconds that opening may take.
        registry, token, ca: instead of PORTWAY_REGISTRY, PORTWAY_TOKEN and PORTWAY_CA.
        region: only relay nodes of this region.
        strategy: "latency" takes the first of the nearest nodes to answer; "geoip" the nearest by location, unless it
            cannot be reached.
        tunnel_lost: called, on Portway's own thread, when the tunnel is lost for good.

        Entering raises InvalidError, ConfigError, AuthError, QuotaError, UnreachableError or RemoteError.
        """
        return Forwarding(
            Arguments(port, unencrypted, h2_enabled, host, timeout, registry, token, ca, region, strategy, tunnel_lost)
        )

    aio = __call__


forward = _Forward()

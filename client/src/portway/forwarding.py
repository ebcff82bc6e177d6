"""`forward()`: keeps its arguments, checks them on enter, and gives the request to the engine.

Here: the with-block, its asynchronous twin and the decorator. The engine is imported when the first tunnel is opened,
so that `import portway` loads nothing heavy. Not here: how a tunnel is opened (engine/).
"""

import functools
import inspect
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from portway.config import LATENCY, resolve, resolve_key, resolve_process, resolve_proxy_protocol
from portway.errors import InvalidError, RemoteError, TunnelLostError
from portway.fork_guard import fork_guard
from portway.tunnel import Tunnel, TunnelLost, TunnelRequest

if TYPE_CHECKING:
    from portway.engine.tunnel_handle import TunnelEngine, TunnelHandle  # imported late: they take 0.1 s

Function = TypeVar("Function", bound=Callable[..., Any])

TUNNEL_PARAMETER: Final = "tunnel"


@dataclass(frozen=True, slots=True)
class Arguments:
    """What `forward` was called with, unchecked: any object that a caller may pass."""

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
    key: str | os.PathLike[str] | None
    returns: str | None = None
    proxy: str | None = None
    process: bool | None = None
    proxy_protocol: Any = None
    client: Any = None

    def checked(self) -> TunnelRequest:
        """The request that they and the environment make now. Raises InvalidError, ConfigError, AuthError."""
        if isinstance(self.port, bool) or not isinstance(self.port, int):
            raise InvalidError(f"the port is an int between 1 and 65535, not {self.port!r}")
        if not 1 <= self.port <= 65535:
            raise InvalidError(f"{self.port} is not a port: give one between 1 and 65535")
        if self.h2_enabled and self.unencrypted:
            raise InvalidError("h2_enabled cannot be combined with unencrypted: open two tunnels, or leave one out")
        if self.host is not None and not _is_host(self.host):
            raise InvalidError(f"the host is a name or an IP address, not {self.host!r}; leave it out for this machine")
        timeout = self.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise InvalidError(f"the timeout is a number of seconds above 0, not {timeout!r}")
        if self.client is not None:
            raise InvalidError(
                f"client is Modal's and is None here, not {self.client!r}: registry= and token= say whom to ask"
            )
        settings = resolve(
            registry=self.registry,
            token=self.token,
            ca=self.ca,
            region=self.region,
            strategy=self.strategy,
            returns=self.returns,
            proxy=self.proxy,
        )
        return TunnelRequest(
            self.port,
            self.host,
            bool(self.unencrypted),
            bool(self.h2_enabled),
            float(timeout),
            settings,
            self.tunnel_lost,
            resolve_key(self.key),
            proxy_protocol=resolve_proxy_protocol(self.proxy_protocol),
        )


def _is_host(host: object) -> bool:
    """Whether a resolver accepts it; it need not exist."""
    if not isinstance(host, str) or not host.isprintable() or any(character in " /[]" for character in host):
        return False
    return ":" in host or all(1 <= len(part) <= 63 for part in host.removesuffix(".").split("."))


class Forwarding:
    """What `forward(...)` returns: a context manager, plain and asynchronous, and a decorator.

    It can be entered again after it was left. Leaving closes the tunnel; if the tunnel had been lost for good, leaving
    raises TunnelLostError, unless the block itself raised.
    """

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._handle: TunnelHandle[Any] | None = None

    def __enter__(self) -> Tunnel:
        """Open the tunnel and wait until it is open. Raises as `forward` says; interrupted, it leaves no tunnel."""
        handle = self._begin()
        try:
            tunnel = handle.result()
        except BaseException:
            handle.withdraw()
            raise
        self._handle = handle
        return tunnel

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._raise_loss(handle.close(), error)

    async def __aenter__(self) -> Tunnel:
        """`__enter__` on an event loop, which it does not block. Cancelled, it leaves no tunnel."""
        handle = self._begin()
        try:
            tunnel = await handle.wait()
        except BaseException:
            handle.withdraw()
            raise
        self._handle = handle
        return tunnel

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._raise_loss(await handle.wait_closed(), error)

    def __call__(self, function: Function) -> Function:
        """Open a tunnel around each call of `function`, and pass it as the parameter `tunnel` if there is one."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidError("forward() cannot decorate a generator: open the tunnel inside it, in a with-block")
        signature = inspect.signature(function)
        takes_tunnel = TUNNEL_PARAMETER in signature.parameters

        def extra(tunnel: Tunnel) -> dict[str, Tunnel]:
            return {TUNNEL_PARAMETER: tunnel} if takes_tunnel else {}

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                async with Forwarding(self._arguments) as tunnel:
                    return await function(*args, **(kwargs | extra(tunnel)))

            wrapper: Any = call_async
        else:

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                with Forwarding(self._arguments) as tunnel:
                    return function(*args, **(kwargs | extra(tunnel)))

            wrapper = call
        parameters = [parameter for name, parameter in signature.parameters.items() if name != TUNNEL_PARAMETER]
        wrapper.__signature__ = signature.replace(parameters=parameters)
        return cast(Function, wrapper)

    def _begin(self) -> "TunnelHandle[Any]":
        if self._handle is not None and self._handle.ours:
            raise InvalidError("this forward() is open already: call forward() again for another tunnel")
        request = self._arguments.checked()
        engine: TunnelEngine[Any]
        apart = resolve_process(self._arguments.process)
        if apart:
            with fork_guard:
                from portway.engine_process.engine_process import running_engine_process
            engine = running_engine_process()  # it starts while this thread imports the rest
        else:
            with fork_guard:
                from portway.engine.engine_thread import running_engine
            engine = running_engine()
        with fork_guard:
            from portway.engine.tunnel_handle import TunnelHandle
        try:
            return TunnelHandle(engine, request)
        except RemoteError:
            if not apart:
                raise
        return TunnelHandle(running_engine_process(), request)  # the process had nothing to do, and has just ended

    @staticmethod
    def _raise_loss(lost: TunnelLostError | None, error: BaseException | None) -> None:
        """The block's own error goes first."""
        if lost is not None and error is None:
            raise lost


class _Forward:
    """`forward` itself: a function with an attribute `aio`, as Modal's has."""

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
        key: str | os.PathLike[str] | None = None,
        returns: str | None = None,
        proxy: str | None = None,
        process: bool | None = None,
        proxy_protocol: bool | str | None = None,
        client: None = None,
    ) -> Forwarding:
        """Put a local port on the Internet for as long as a with-block runs.

            with portway.forward(8000) as tunnel:
                print(tunnel.url)

        The same object works in `async with` (asyncio, trio, anyio), and as a decorator of plain and async functions.
        Nothing is checked or done before it is entered.

        unencrypted: a random TCP port without TLS, in addition to the https:// address.
        h2_enabled: offer HTTP/2 to visitors that offer only HTTP/2, such as gRPC clients.
        host: the machine that the port is on; without it this machine (127.0.0.1, then ::1).
        timeout: seconds that opening may take; what cannot be reached is tried again until they are over.
        registry, token, ca: used instead of PORTWAY_REGISTRY, PORTWAY_TOKEN and PORTWAY_CA.
        region: only relay nodes of this region.
        strategy: "latency" takes the first of the nearest nodes to answer; "geoip" the nearest by location, unless it
            cannot be reached.
        tunnel_lost: called, on Portway's own thread, when the tunnel is lost for good.
        key: a file with the tunnel's key, made at the first use: the same URL from then on, wherever the file is. Keep
            it secret: whoever has the file has the URL. One program at a time uses it; the one that is started later
            takes the URL over. Used instead of PORTWAY_KEY; "" is a random URL.
        returns: when the tunnel goes to a node that is clearly nearer than its own: "never", or times in seconds, such
            as "ready=60,spread=240,pause=600". Used instead of PORTWAY_RETURNS; "" is the default.
        proxy: the URL of an HTTP proxy through which registries and nodes are reached, instead of PORTWAY_PROXY and
            what https_proxy and no_proxy say; "" or "direct" is none. The local server is never reached through one.
        process: True runs the engine in a child process, so that a program that computes does not slow its visitors
            down; it takes 0.2 s at the first tunnel, and 60 MB. Used instead of PORTWAY_PROCESS.
        proxy_protocol: True or "v2" begins each connection to the local server with a PROXY header, which says the
            visitor's address and port, TLS version, host name and ALPN; "v1" is the older form, without TLS. The server
            must expect it: others take it for garbage. Used instead of PORTWAY_PROXY_PROTOCOL.
        client: None; a program written for Modal may pass it.

        Entering raises InvalidError, ConfigError, AuthError, QuotaError, UnreachableError, RemoteError or
        TakenOverError.
        """
        return Forwarding(
            Arguments(
                port=port,
                unencrypted=unencrypted,
                h2_enabled=h2_enabled,
                host=host,
                timeout=timeout,
                registry=registry,
                token=token,
                ca=ca,
                region=region,
                strategy=strategy,
                tunnel_lost=tunnel_lost,
                key=key,
                returns=returns,
                proxy=proxy,
                process=process,
                proxy_protocol=proxy_protocol,
                client=client,
            )
        )

    aio = __call__


forward = _Forward()

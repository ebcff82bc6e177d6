"""portway.forwarding: what is checked before anything is opened, and that nothing is before it is entered."""

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from portway import InvalidError, forward
from portway.forwarding import Arguments
from portway.tunnel import TunnelRequest

DEFAULTS: dict[str, Any] = {
    "port": 8000,
    "unencrypted": False,
    "h2_enabled": False,
    "host": None,
    "timeout": 10,
    "registry": "registry.test:7400",
    "token": "pw_id_secret",
    "ca": "",
    "region": None,
    "strategy": "latency",
    "tunnel_lost": None,
    "key": "",
    "returns": None,
    "proxy": "",
    "process": None,
    "proxy_protocol": None,
    "client": None,
}


def checked(**given: Any) -> TunnelRequest:
    return Arguments(**(DEFAULTS | given)).checked()


@pytest.mark.parametrize("port", ["8000", 8000.0, None, True, False, b"1", [8000]])
def test_a_port_that_is_no_int(port: Any) -> None:
    """Not even a bool, which Python takes for one."""
    with pytest.raises(InvalidError, match="the port is an int between 1 and 65535, not"):
        checked(port=port)


@pytest.mark.parametrize("port", [0, -1, 65536, 2**40])
def test_a_port_out_of_range(port: int) -> None:
    """Port 0 included: a tunnel needs to know."""
    with pytest.raises(InvalidError, match=f"{port} is not a port"):
        checked(port=port)


@pytest.mark.parametrize(("wanted", "version"), [(True, 2), ("v2", 2), ("v1", 1), (False, 0), (None, 1)])
def test_proxy_headers_are_asked_for(monkeypatch: pytest.MonkeyPatch, wanted: Any, version: int) -> None:
    """By the argument, else by the environment."""
    monkeypatch.setenv("PORTWAY_PROXY_PROTOCOL", "v1")
    assert checked(proxy_protocol=wanted).proxy_protocol == version


@pytest.mark.parametrize("port", [1, 65535])
def test_the_first_and_the_last_port(port: int) -> None:
    """Both can be forwarded."""
    assert checked(port=port).port == port


def test_h2_and_unencrypted_exclude_each_other() -> None:
    """As in Modal."""
    with pytest.raises(InvalidError, match="h2_enabled cannot be combined with unencrypted"):
        checked(h2_enabled=True, unencrypted=True)


@pytest.mark.parametrize("host", ["", 1, b"db", "a b", "a/b", "a\0b", "[::1]", "a..b", ".a", "x" * 64, "."])
def test_a_host_of_no_use(host: Any) -> None:
    """What no resolver could be asked for."""
    with pytest.raises(InvalidError, match="the host is a name or an IP address"):
        checked(host=host)


@pytest.mark.parametrize(
    "host", ["db", "db.internal", "db.internal.", "192.0.2.1", "::1", "fe80::1%eth0", "bücher.test"]
)
def test_a_host_of_use(host: str) -> None:
    """Whether it exists is found out at each visit."""
    assert checked(host=host).host == host


@pytest.mark.parametrize("timeout", [0, -1, "10", None, True, float("nan"), float("inf")])
def test_a_timeout_of_no_use(timeout: Any) -> None:
    """It is a number of seconds above 0."""
    with pytest.raises(InvalidError, match="the timeout is a number of seconds above 0"):
        checked(timeout=timeout)


@pytest.mark.parametrize("strategy", ["latency", "geoip"])
def test_a_strategy_is_one_of_two(strategy: str) -> None:
    """Tunnels that differ in it are of different sessions."""
    assert checked(strategy=strategy).settings.strategy == strategy
    assert checked(strategy="geoip").settings != checked().settings


@pytest.mark.parametrize("strategy", ["", "GEOIP", "nearest", None, 1, ["geoip"]])
def test_another_strategy_is_refused(strategy: Any) -> None:
    """With those that there are."""
    with pytest.raises(InvalidError, match=r"the strategy is one of 'latency', 'geoip', not "):
        checked(strategy=strategy)


def test_modal_s_client_is_none() -> None:
    """Programs written for Modal pass it; no other client could be used here."""
    assert checked(client=None) == checked()
    with pytest.raises(InvalidError, match=r"client is Modal's and is None here, not 'mine': registry= and token="):
        checked(client="mine")
    with pytest.raises(InvalidError, match="client is Modal's"):
        forward(8000, client=object()).__enter__()  # type: ignore[arg-type]


def test_nothing_is_checked_before_it_is_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The object can be made where no environment is set yet."""
    monkeypatch.delenv("PORTWAY_REGISTRY", raising=False)
    forwarding = forward("no port")  # type: ignore[arg-type]
    with pytest.raises(InvalidError):
        forwarding.__enter__()


async def test_entering_asynchronously_checks_the_same() -> None:
    """`async with` raises at its beginning."""
    with pytest.raises(InvalidError):
        await forward(0).__aenter__()


def test_a_decorated_function_is_checked_when_called() -> None:
    """Not where it is defined."""

    @forward(0)
    def serve() -> None:
        raise AssertionError("never called")

    with pytest.raises(InvalidError):
        serve()


def test_generators_cannot_be_decorated() -> None:
    """Their block would be left before they run."""

    def numbers() -> Iterator[int]:
        yield 1

    async def later() -> AsyncIterator[int]:
        yield 1

    for function in (numbers, later):
        with pytest.raises(InvalidError, match="open the tunnel inside it"):
            forward(8000)(function)


def test_a_decorator_hides_the_tunnel_parameter_alone() -> None:
    """Name, docstring, other parameters and annotations stay."""

    @forward(8000)
    def serve(a: int, *, b: str = "x", tunnel: Any = None) -> float:
        """Serves."""
        return 0.0

    assert (serve.__name__, serve.__doc__) == ("serve", "Serves.")
    assert str(inspect.signature(serve)) == "(a: int, *, b: str = 'x') -> float"


def test_aio_is_the_same_function() -> None:
    """`modal.forward.aio` has its counterpart."""
    assert forward.aio.__func__ is type(forward).__call__  # type: ignore[attr-defined]
    assert set(inspect.signature(forward).parameters) == set(DEFAULTS)


def test_leaving_what_was_never_entered_does_nothing() -> None:
    """So that an ExitStack may do it."""
    forward(8000).__exit__(None, None, None)


def test_importing_it_loads_nothing_heavy() -> None:
    """A program that never forwards pays next to nothing."""
    code = (
        "import sys, portway\n"
        "heavy = ('grpc', 'google.protobuf', 'asyncio', 'ssl', 'socket', 'uvloop', 'portway_proto')\n"
        "print(*[name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_first_tunnel_loads_only_what_it_needs() -> None:
    """No JSON, no messages between registries and nodes, no key files: each would delay it by a millisecond or more."""
    code = (
        "import sys\n"
        "import portway.engine.engine_thread, portway.engine.tunnel_handle, portway_proto.records\n"
        "unneeded = ('json', 'portway_proto.v1.mesh_pb2', 'pathlib', 'portway.engine.key_file')\n"
        "print(*[name for name in unneeded if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_an_engine_process_loads_no_engine_into_the_program() -> None:
    """Nothing of gRPC, TLS and protobuf, whose work its child does; asyncio only for whoever waits on a loop."""
    code = (
        "import sys\n"
        "import portway.engine_process.engine_process, portway.engine.tunnel_handle\n"
        "unneeded = ('grpc', 'google.protobuf', 'cryptography', 'uvloop', 'multiprocessing', 'pickle')\n"
        "print(*[name for name in unneeded if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

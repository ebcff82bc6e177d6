"""The gate in front of every method, called as gRPC calls an interceptor."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from portway_registry.errors import NotFound, TokenMissing, TokenRevoked
from portway_registry.net.connection import Connection
from portway_registry.services import messages
from portway_registry.services.callers import Caller, Context, current_address, current_caller
from portway_registry.services.interceptor import CallInterceptor
from portway_registry.state.records import Role
from portway_runtime.endpoints import Endpoint

LOCATE, SESSION, LIST, HEALTH = (
    "/portway.v1.Discovery/Locate",
    "/portway.v1.Mesh/Session",
    "/portway.v1.Admin/ListNodes",
    "/grpc.health.v1.Health/Check",
)


class Aborted(Exception):
    """What grpc.aio's abort raises, for all that the interceptor can see."""


class Call:
    """A call's context with one message, which notes how it was aborted."""

    def __init__(self, *, peer: str = "one", message: Any = "request") -> None:
        self.status: tuple[StatusCode, str] | None = None
        self._peer = peer
        self._message = message

    def peer(self) -> str:
        return self._peer

    async def read(self) -> Any:
        if self._message is None:
            await asyncio.Event().wait()
        return self._message

    async def abort(self, code: StatusCode, text: str, trailers: tuple[tuple[str, str], ...]) -> None:
        self.status = (code, text)
        raise Aborted

    def code(self) -> StatusCode | None:
        return None


class NoSockets:
    """What moves the bytes of a connection that has none."""

    def open(self) -> None: ...
    def let_go(self) -> None: ...
    def close(self) -> None: ...


class OnePort:
    """A port with one connection, named "one", and what became of its calls."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.from_("192.0.2.7")

    def from_(self, host: str) -> None:
        """Its one connection is from this address, from now on."""
        self.connection = Connection(Endpoint(host, 4711), NoSockets())

    def find(self, peer: str) -> Connection | None:
        return self.connection if peer == "one" else None

    def call_began(self, connection: Connection) -> None:
        self.events.append("began")

    def identified(self, connection: Connection) -> None:
        self.events.append("identified")

    def call_ended(self, connection: Connection, *, identified: bool) -> None:
        self.events.append("ended" if identified else "ended, anonymous")


class Desk:
    """An interceptor, its caller, and what was counted."""

    def __init__(self) -> None:
        self.caller: Caller | Exception = Caller(Role.CLIENT, "token1")
        self.counted: list[tuple[str, StatusCode]] = []
        self.port = OnePort()
        self.failed: list[str] = []
        count = lambda method, code: self.counted.append((method, code))  # noqa: E731
        failed = lambda address, error: self.failed.append(str(address))  # noqa: E731
        self.interceptor = CallInterceptor(self.port, self._identify, count, failed)

    async def _identify(self, context: Context) -> Caller:
        if isinstance(self.caller, Exception):
            raise self.caller
        return self.caller

    async def handler(self, method: str, served: Any) -> Any:
        class Details:
            invocation_metadata = ()

        Details.method = method  # type: ignore[attr-defined]

        async def continuation(details: Any) -> Any:
            return served

        return await self.interceptor.intercept_service(continuation, Details())  # type: ignore[arg-type]

    async def call(self, method: str, run: Any, context: Call | None = None) -> Any:
        """The answer, or how the call was aborted."""
        wrapped = await self.handler(method, run and grpc.unary_unary_rpc_method_handler(run))
        context = context or Call()
        try:
            return await wrapped.stream_unary(_nothing(), context)
        except Aborted:
            return context.status


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call is over because its message does not come."""
    monkeypatch.setattr(messages, "MESSAGE_TIME", 3600.0)


async def answer(request: Any, context: Any) -> str:
    return f"{request} for {current_caller.get().name}"


async def test_the_right_role_gets_its_answer(desk: Desk) -> None:
    """The handler runs, knows its caller, and the call is counted as OK."""
    assert await desk.call(LOCATE, answer) == "request for token1"
    assert desk.counted == [(LOCATE, StatusCode.OK)]


@pytest.mark.parametrize(
    ("role", "method"),
    [(Role.ADMIN, LOCATE), (Role.NODE, LOCATE), (Role.CLIENT, LIST), (Role.NODE, LIST), (Role.CLIENT, SESSION)],
)
async def test_a_wrong_role_is_denied(desk: Desk, role: Role, method: str) -> None:
    """The handler never runs, and the status names the role that is needed."""
    desk.caller = Caller(role, "x")
    code, text = await desk.call(method, answer)
    assert code is StatusCode.PERMISSION_DENIED
    assert f"this one is of role {role}" in text
    assert desk.counted == [(method, StatusCode.PERMISSION_DENIED)]


async def test_an_unidentified_caller_is_refused(desk: Desk) -> None:
    """The status says why it could not be identified."""
    desk.caller = TokenMissing()
    code, text = await desk.call(LOCATE, answer)
    assert code is StatusCode.UNAUTHENTICATED
    assert text.startswith("no API token")


async def test_health_is_for_everybody(desk: Desk) -> None:
    """A method for every caller does not identify its caller."""
    desk.caller = TokenMissing()

    async def healthy(request: Any, context: Any) -> str:
        return "healthy"

    assert await desk.call(HEALTH, healthy) == "healthy"


async def test_what_is_not_in_the_table_is_not_served(desk: Desk) -> None:
    """A method without a row is not run, even if a service has it; strangers' names are no metric's label."""
    code, text = await desk.call("/portway.v1.Admin/Forgotten", answer)
    assert code is StatusCode.UNIMPLEMENTED
    assert "another release" in text
    code, text = await desk.call(SESSION, None)
    assert code is StatusCode.UNIMPLEMENTED
    assert "mesh port" in text
    assert desk.counted == [("other", StatusCode.UNIMPLEMENTED)] * 2


async def test_what_a_handler_raises_becomes_a_status(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """The text of our own errors goes out; anything else is logged under a number, and only the number goes out."""

    async def missing(request: Any, context: Any) -> str:
        raise NotFound("no such node")

    async def broken(request: Any, context: Any) -> str:
        raise RuntimeError("a secret of the inside")

    assert await desk.call(LOCATE, missing) == (StatusCode.NOT_FOUND, "no such node")
    code, text = await desk.call(LOCATE, broken)
    assert code is StatusCode.INTERNAL
    assert "secret" not in text
    number = text.rpartition(" ")[2]
    assert number in caplog.text
    assert "a secret of the inside" in caplog.text


async def test_a_call_that_is_broken_off_is_counted_so(desk: Desk) -> None:
    """Cancelled by its caller, a call ends as cancelled."""
    begun = asyncio.Event()

    async def endless(request: Any, context: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(desk.call(LOCATE, endless))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert desk.counted == [(LOCATE, StatusCode.CANCELLED)]


async def _nothing() -> AsyncIterator[Any]:
    return
    yield


async def test_a_call_has_its_connection_s_address(desk: Desk) -> None:
    """Whatever gRPC calls the peer; the connection is told when its caller is known and when the call has ended."""

    async def whence(request: Any, context: Any) -> str:
        return str(current_address.get())

    assert await desk.call(LOCATE, whence) == "192.0.2.7"
    desk.caller = TokenMissing()
    await desk.call(LOCATE, whence)
    await desk.call(HEALTH, whence)
    await desk.call("/portway.v1.Admin/Forgotten", None)
    assert desk.port.events == ["began", "identified", "ended"] + ["began", "ended, anonymous"] * 3


async def test_who_cannot_be_identified_is_counted(desk: Desk) -> None:
    """A caller whose token is revoked later, in mid-stream, was identified."""

    async def revoked(request: Any, context: Any) -> Any:
        raise TokenRevoked

    assert (await desk.call(LOCATE, revoked))[0] is StatusCode.UNAUTHENTICATED
    assert desk.failed == []
    desk.caller = TokenRevoked()
    assert (await desk.call(LOCATE, answer))[0] is StatusCode.UNAUTHENTICATED
    assert desk.failed == ["192.0.2.7"]


async def test_a_call_of_no_connection_is_refused(desk: Desk) -> None:
    """Who reaches gRPC past the port, and calls of a connection that has ended, get no answer from a handler."""
    for method in (LOCATE, HEALTH, "/portway.v1.Admin/Forgotten"):
        code, _ = await desk.call(method, answer, Call(peer="another"))
        assert code is (StatusCode.UNIMPLEMENTED if "Forgotten" in method else StatusCode.UNAVAILABLE)
    assert desk.port.events == []


async def test_a_caller_is_refused_before_its_message_comes(desk: Desk) -> None:
    """Headers alone are enough to refuse a call, and nothing is awaited then."""
    desk.caller = TokenMissing()
    code, _ = await desk.call(LOCATE, answer, Call(message=None))
    assert code is StatusCode.UNAUTHENTICATED


async def test_a_message_is_awaited_for_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the call ends, and its place among those that wait is free again."""
    monkeypatch.setattr(messages, "MESSAGE_TIME", 0.01)
    for _ in range(3):
        code, text = await desk.call(LOCATE, answer, Call(message=None))
        assert (code, text.startswith("no message within")) == (StatusCode.DEADLINE_EXCEEDED, True)
    assert await desk.call(LOCATE, answer) == "request for token1"


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize(
    ("method", "limit"), [(LOCATE, messages.AWAITED_OF_CALLER), (HEALTH, messages.AWAITED_OF_ADDRESS)]
)
async def test_few_calls_of_one_caller_wait_for_messages(desk: Desk, method: str, limit: int) -> None:
    """Of one token, and of one address that shows none."""
    tasks = await waiting(desk, method, limit)
    code, _ = await desk.call(method, answer, Call(message=None))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    await cancelled(tasks)


async def waiting(desk: Desk, method: str, number: int) -> list["asyncio.Task[Any]"]:
    """So many calls whose message does not come; they have begun to wait."""
    tasks = [asyncio.ensure_future(desk.call(method, answer, Call(message=None))) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


@pytest.mark.usefixtures("patient")
async def test_addresses_of_one_customer_wait_as_one(desk: Desk) -> None:
    """Its IPv6 addresses are counted by their /64."""
    tasks = []
    for number in range(messages.AWAITED_OF_ADDRESS):
        desk.port.from_(f"2001:db8::{number + 1:x}")
        tasks += await waiting(desk, HEALTH, 1)
    desk.port.from_("2001:db8::ffff")
    code, _ = await desk.call(HEALTH, answer, Call(message=None))
    assert code is StatusCode.RESOURCE_EXHAUSTED
    desk.port.from_("2001:db8:0:1::1")
    assert await desk.call(HEALTH, other_answer) == "another"
    await cancelled(tasks)


@pytest.mark.usefixtures("patient")
async def test_strangers_leave_room_for_others(desk: Desk) -> None:
    """However many of them wait: for identified callers all, and for strangers of another prefix some."""
    tasks = []
    for number in range(200):
        desk.port.from_(f"10.9.{number // 100}.{number % 100}")
        tasks += await waiting(desk, HEALTH, messages.AWAITED_OF_ADDRESS)
    code, _ = await desk.call(HEALTH, answer, Call(message=None))
    assert code is StatusCode.UNAVAILABLE  # not the quota of the caller, which would be final
    desk.port.from_("192.0.2.7")
    assert await desk.call(HEALTH, other_answer) == "another"
    assert await desk.call(LOCATE, answer) == "request for token1"
    await cancelled(tasks)


async def cancelled(tasks: list["asyncio.Task[Any]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_call_without_a_message_is_refused(desk: Desk) -> None:
    """It ends when its caller says that nothing will come."""
    code, text = await desk.call(LOCATE, answer, Call(message=grpc.aio.EOF))
    assert (code, text) == (StatusCode.INVALID_ARGUMENT, "the call has no message")


async def test_streams_are_guarded_alike(desk: Desk) -> None:
    """A stream of the wrong role never begins; of the right one it runs to its end and is counted once."""
    begun: list[str] = []

    async def session(requests: Any, context: Any) -> None:
        begun.append(current_caller.get().name)

    wrapped = await desk.handler(SESSION, grpc.stream_stream_rpc_method_handler(session))
    context = Call()
    with pytest.raises(Aborted):
        await wrapped.stream_stream(_nothing(), context)
    assert context.status is not None
    assert context.status[0] is StatusCode.PERMISSION_DENIED
    desk.caller = Caller(Role.NODE, "fra-1")
    await wrapped.stream_stream(_nothing(), Call())
    assert begun == ["fra-1"]
    assert desk.counted == [(SESSION, StatusCode.PERMISSION_DENIED), (SESSION, StatusCode.OK)]


async def test_a_method_is_guarded_once_and_anew_for_another_handler(desk: Desk) -> None:
    """Calls share what is in front of a handler; what is put in its place is never hidden behind it."""
    served: Any = grpc.unary_unary_rpc_method_handler(answer)
    assert await desk.handler(LOCATE, served) is await desk.handler(LOCATE, served)
    other = await desk.handler(LOCATE, grpc.unary_unary_rpc_method_handler(other_answer))
    assert await other.stream_unary(_nothing(), Call()) == "another"
    assert await desk.handler(LIST, served) is not await desk.handler(LOCATE, served)


async def other_answer(request: Any, context: Any) -> str:
    return "another"

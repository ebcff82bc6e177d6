"""Whether clients can reach a node: its advertised address is dialled from other nodes, then from this registry.

Other nodes dial first, since they are elsewhere, as clients are. The node is told one of three outcomes, and so are
clients and operators; details are in this registry's log, since they say what is open in the networks of those that
dialled. In the same way each public address of a node is dialled before its record has it: DNS answers would else lead
visitors to whatever address the holder of a stolen key states. Here: a dial from this registry; which parties dial, and
when; what is reported to the node. Not here: the dials of other nodes, and where clients are sent.
"""

import asyncio
import itertools
import logging
import os
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final
from weakref import WeakKeyDictionary

from portway_proto.records import MAX_REACH_FAILURE, cut_printable
from portway_proto.v1.mesh_pb2 import Probe, Probed, Reachability
from portway_proto.v1.types_pb2 import REACH_FAILED, REACH_REACHED, REACH_TRYING, NodeInfo
from portway_proto.wire.limits import LINK_ALPN
from portway_runtime.address_scopes import (
    NOT_THIS_NODE,
    UNREACHABLE,
    Scope,
    allowed_addresses,
    failure_of,
    outcome_of,
)
from portway_runtime.backoff import Backoff
from portway_runtime.dialling import race
from portway_runtime.errors import AddressNotAllowed
from portway_runtime.names import Names
from portway_runtime.tls_choices import Group, restrict

from portway_registry.nodes.session import NodeSession

logger = logging.getLogger(__name__)

# Who did not reach a node, and why: an outcome and details.
Failures = list[tuple[str, str]]
# Dials a node and returns why it was not reached, an outcome and details; "" when it was.
Dial = Callable[[NodeInfo], Awaitable[str]]

# Seconds; ten of the longest round trips on Earth, so that a lost packet is retransmitted within.
DIAL_TIMEOUT: Final = 3.0
# Seconds that a registration waits for the first probe, which takes a few milliseconds on one machine and three of the
# longest round trips on Earth when another node dials. A node that is not reached by then still serves the mesh.
_FIRST_PROBE_TIMEOUT: Final = 2.0
_PROBERS: Final = 2  # nodes asked at once: one may be cut off itself
# The asked node has a time limit of its own, and its answer has to travel.
_ANSWER_TIMEOUT: Final = DIAL_TIMEOUT + 1.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_HTTPS_PORT: Final = 443


def dialler(cluster_ca: Callable[[], bytes], allowed: Collection[Scope]) -> Dial:
    """Dials as a client does: TCP, TLS with the clients' ALPN, and a certificate for the node from these CAs (PEM).

    Only addresses of the `allowed` scopes are dialled. Call it on the event loop.
    """
    names = Names()
    made: tuple[bytes, ssl.SSLContext] | None = None

    async def dial(node: NodeInfo) -> str:
        nonlocal made
        trusted = cluster_ca()
        if made is None or made[0] != trusted:
            made = trusted, _context(trusted)
        context = made[1]
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                addresses = await allowed_addresses(names, node.host, allowed)
                writer = await race(
                    addresses,
                    lambda address: _connect(address, node, context),
                    lambda writer: writer.transport.abort(),
                )
        except AddressNotAllowed as error:
            return failure_of(error)
        except (OSError, TimeoutError, UnicodeError) as error:
            return _dial_failure(error, node)
        tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        if tls is None or tls.selected_alpn_protocol() != LINK_ALPN:
            return f"{NOT_THIS_NODE}: what answers there does not accept clients' lanes"
        return ""

    return dial


def _context(cluster_ca: bytes) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=cluster_ca.decode("ascii"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    restrict(context, Group.P256)
    context.set_alpn_protocols([LINK_ALPN])
    return context


async def _connect(address: str, node: NodeInfo, context: ssl.SSLContext) -> asyncio.StreamWriter:
    """A connection to this address of the node. Raises OSError."""
    _, writer = await asyncio.open_connection(address, node.port, ssl=context, server_hostname=node.server_name)
    return writer


class Prober:
    """Probes the nodes whose sessions are here. Without `dial` addresses are not checked, and every node counts as
    reached."""

    def __init__(self, sessions: Mapping[str, NodeSession], dial: Dial | None) -> None:
        """`sessions` by node name; it may change at any time."""
        self._sessions = sessions
        self._dial = dial
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[str, asyncio.Future[str]]] = {}  # by probe number: the node asked, its answer
        self._stated: WeakKeyDictionary[NodeSession, list[str]] = WeakKeyDictionary()

    async def probe_first(self, session: NodeSession, known: NodeInfo | None) -> None:
        """Set the node's reach before it is registered, and leave its public addresses at which it was reached.
        `known` is its record so far: a node that was reached at the same address is not probed again."""
        info = session.info
        info.ClearField("reach")
        info.ClearField("reach_failure")
        if self._dial is None:
            return
        self._stated[session] = list(info.addresses)
        same = known is not None and known.reach == REACH_REACHED and _address(known) == _address(info)
        self._leave(session, known.addresses if known is not None and same else ())
        info.reach = REACH_REACHED if same else REACH_TRYING
        try:
            async with asyncio.timeout(_FIRST_PROBE_TIMEOUT):
                await self._probe(session)
        except TimeoutError:
            pass

    async def probe_until_reached(self, session: NodeSession) -> None:
        """Probe until the node is reached, at each of its public addresses too. It is sent its reach now and at each
        change; changes go to the store too."""
        if self._dial is None:
            return
        self._report(session)
        backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        while not self._is_settled(session):
            before = _found(session)
            await self._probe(session)
            if before != _found(session):
                self._report(session)
                session.publish()
            if not self._is_settled(session):
                await asyncio.sleep(backoff.next())

    def answered(self, node: str, probed: Probed) -> None:
        """A node reports the outcome of a probe that it was asked for; any other report is dropped."""
        asked, answer = self._pending.get(probed.number, ("", None))
        if asked == node and answer is not None and not answer.done():
            answer.set_result(cut_printable(probed.failure, MAX_REACH_FAILURE))

    def _is_settled(self, session: NodeSession) -> bool:
        return session.info.reach == REACH_REACHED and not self._unreached(session)

    def _unreached(self, session: NodeSession) -> list[str]:
        """The public addresses at which the node was not reached so far."""
        return [one for one in self._stated.get(session, ()) if one not in session.info.addresses]

    def _leave(self, session: NodeSession, reached: Iterable[str]) -> None:
        """Leave of the stated addresses those in `reached`, in the node's order."""
        there = set(reached)
        session.info.addresses[:] = [one for one in self._stated[session] if one in there]

    async def _probe(self, session: NodeSession) -> None:
        """Try what was not reached so far: the advertised address, then each public one."""
        info = session.info
        if info.reach != REACH_REACHED:
            failures = await self._try(session, info)
            if failures is not None:
                info.reach = REACH_FAILED
                info.ClearField("reach_failure")
                self._note(session, failures)
                return
            info.reach = REACH_REACHED
            info.ClearField("reach_failure")
            if info.host in self._stated.get(session, ()):
                self._leave(session, [info.host])
        unreached = self._unreached(session)
        tried = await asyncio.gather(*(self._try_address(session, one) for one in unreached))
        info.ClearField("reach_failure")
        for address, failures in zip(unreached, tried, strict=True):
            if failures is not None:
                self._note(session, failures, f"in no DNS answer: {address}, ")

    async def _try_address(self, session: NodeSession, address: str) -> Failures | None:
        """As _try, at a public address, which the record has from then on: at the port that clients dial, or at that of
        https, which a balancer may have in its place."""
        target = NodeInfo()
        target.CopyFrom(session.info)
        target.host = address
        failures = await self._try(session, target)
        if failures is not None and target.port != _HTTPS_PORT:
            target.port = _HTTPS_PORT
            if await self._try(session, target) is None:
                failures = None
        if failures is None:
            self._leave(session, [*session.info.addresses, address])
        return failures

    async def _try(self, session: NodeSession, target: NodeInfo) -> Failures | None:
        """Dial the node from some other nodes at once, and from here when none of them reached it. None when one did,
        else who did not and why."""
        assert self._dial is not None, "addresses are checked"
        others = [one for one in self._sessions.values() if one is not session and one.serving]
        failures = await self._ask(random.sample(others, min(_PROBERS, len(others))), target)
        if failures is not None:
            own = await self._dial(target)
            failures = None if not own else [*failures, ("from the registry", own)]
        return failures

    def _note(self, session: NodeSession, failures: Failures, where: str = "") -> None:
        """Outcomes for the node's record, details for this registry's log; the first of several stays in the record."""
        outcomes = where + "; ".join(f"{who}: {outcome_of(why)}" for who, why in failures)
        session.info.reach_failure = session.info.reach_failure or cut_printable(outcomes, MAX_REACH_FAILURE)
        details = where + "; ".join(f"{who}: {why}" for who, why in failures)
        session.reach_details = cut_printable(details, MAX_REACH_FAILURE)

    def _report(self, session: NodeSession) -> None:
        info = session.info
        session.outbox.reachability(Reachability(reach=info.reach, failure=info.reach_failure))
        if info.reach == REACH_FAILED:
            extra = {"node": info.name, "host": info.host, "port": info.port, "reason": session.reach_details}
            logger.warning("node not reached", extra=extra)
        elif info.reach == REACH_REACHED:
            logger.info("node reached", extra={"node": info.name})
            if unreached := self._unreached(session):
                extra = {"node": info.name, "addresses": ", ".join(unreached), "reason": session.reach_details}
                logger.warning("public addresses at which a node is not reached are in no DNS answer", extra=extra)

    async def _ask(self, others: Iterable[NodeSession], info: NodeInfo) -> Failures | None:
        """Which of these nodes did not reach it, and why; None as soon as one did."""
        asked: dict[asyncio.Future[str], str] = {}
        numbers = []
        for other in others:
            number = next(self._numbers)
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self._pending[number] = other.info.name, answer
            asked[answer] = other.info.name
            numbers.append(number)
            other.outbox.probe(Probe(number=number, node=info))
        failures = []
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                pending = set(asked)
                while pending:
                    done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for answer in done:
                        if not answer.result():
                            return None
                        failures.append((f"from node {asked[answer]}", answer.result()))
        except TimeoutError:
            silent = f"{UNREACHABLE}: the node that was asked did not answer"
            failures += [(f"from node {name}", silent) for answer, name in asked.items() if not answer.done()]
        finally:
            for number in numbers:
                del self._pending[number]
        return failures


def _dial_failure(error: OSError | TimeoutError | UnicodeError, node: NodeInfo) -> str:
    """Whoever shows a certificate, or says which names it has, is another party; a port that does neither is not told
    from one that is closed."""
    if isinstance(error, TimeoutError) and not error.args:
        return f"{UNREACHABLE}: no answer within {DIAL_TIMEOUT:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{NOT_THIS_NODE}: what answers there does not show its certificate: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and "UNRECOGNIZED_NAME" in (error.reason or ""):
        return f"{NOT_THIS_NODE}: what answers there does not go by {node.server_name}"
    if isinstance(error, ssl.SSLError):
        return f"{UNREACHABLE}: the TLS handshake failed: {error.reason or error}"
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"{UNREACHABLE}: the name {node.host} cannot be resolved: {error}"
    # asyncio replaces the text of some errors by one that says less.
    return f"{UNREACHABLE}: {os.strerror(error.errno) if error.errno else str(error) or type(error).__name__}"


def _found(session: NodeSession) -> tuple[object, ...]:
    info = session.info
    return info.reach, info.reach_failure, list(info.addresses)


def _address(node: NodeInfo) -> tuple[str, int, str]:
    return node.host, node.port, node.server_name

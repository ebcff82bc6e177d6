"""Names at the public port that are looked for elsewhere, and other nodes' lanes."""

import asyncio
import contextlib
import logging

import pytest
from portway_proto.wire.limits import MESH_ALPN
from portway_relay.ingress.decision import Alert
from portway_relay.ingress.public_port import PublicPort
from portway_testkit.fakes.front_door import HOST, NODE, Around, FrontMaker, answer
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import real_hello

OTHER = "aaaaaaaaaaaaaaaa"
OTHER_HOST = f"{OTHER}.iad.example.com"


async def waiting(front: PublicPort, around: Around) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A visitor whose name is being asked for."""
    around.found[OTHER] = asyncio.get_running_loop().create_future()
    reader, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    writer.write(real_hello(OTHER_HOST))
    await until(lambda: bool(around.asked))
    assert around.asked == [(OTHER, "iad")]
    assert front.half_open == 1
    return reader, writer


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


async def test_a_name_that_is_found_elsewhere_is_served(open_front: FrontMaker, around: Around) -> None:
    """The visitor waits while others are asked, and is handed on with its hello unread."""
    front = open_front()
    _, writer = await waiting(front, around)
    around.found[OTHER].set_result(around.tunnel)
    await until(lambda: bool(around.visitors))
    ((_, tunnel, name, _),) = around.visitors
    assert (tunnel, name.region) == (around.tunnel, "iad")
    await until(lambda: front.half_open == 0)
    await close(writer)


async def test_a_name_that_is_not_found_is_unknown(open_front: FrontMaker, around: Around) -> None:
    """The answer is the one that every unknown name gets."""
    front = open_front()
    reader, writer = await waiting(front, around)
    around.found[OTHER].set_result(None)
    assert await reader.read() == Alert.UNRECOGNIZED_NAME.record
    await close(writer)


async def test_the_stop_drops_who_waits(open_front: FrontMaker, around: Around) -> None:
    """A visitor whose name is still being asked for is not held."""
    front = open_front()
    reader, writer = await waiting(front, around)
    await front.close()
    assert front.half_open == 0
    with pytest.raises(ConnectionResetError):
        await reader.read()
    with contextlib.suppress(ConnectionResetError):
        await close(writer)


async def test_names_that_are_asked_for_are_bounded(open_front: FrontMaker, around: Around) -> None:
    """Beyond the limit a name that would have to be asked for is unknown; known ones are served."""
    front = open_front(limits={"max_half_open": 1})
    _, writer = await waiting(front, around)
    assert await answer(front, real_hello(f"{'b' * 16}.fra.example.com")) == Alert.UNRECOGNIZED_NAME.record
    assert len(around.asked) == 1
    _, known = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    known.write(real_hello(HOST))
    await until(lambda: bool(around.visitors))
    await close(known)
    around.found[OTHER].set_result(None)
    await close(writer)


async def test_another_nodes_lane_is_handed_on(open_front: FrontMaker, around: Around) -> None:
    """The ALPN of the mesh and this node's name: with its hello unread."""
    front = open_front()
    hello = real_hello(NODE, [MESH_ALPN])
    _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    writer.write(hello)
    await until(lambda: bool(around.peer_lanes))
    assert around.peer_lanes[0].recv(1 << 16) == hello
    await close(writer)


async def test_a_certificate_that_cannot_be_used_after_a_lookup_stops_no_other_visitor(
    open_front: FrontMaker, around: Around, caplog: pytest.LogCaptureFixture
) -> None:
    """The visitor is lost and the operator reads why, as for a name that was known at once; the port goes on."""
    front = open_front()
    reader, writer = await waiting(front, around)
    around.fails = True
    with caplog.at_level(logging.ERROR):
        around.found[OTHER].set_result(around.tunnel)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        await until(lambda: front.half_open == 0)
    assert [record.getMessage() for record in caplog.records] == ["a certificate cannot be used for TLS: no such key"]
    with contextlib.suppress(ConnectionResetError):
        await close(writer)

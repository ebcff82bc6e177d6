"""The public port on a real carrier: what each who arrives gets, and whose socket it is then."""

import asyncio
import ssl
from typing import Any

import pytest
import trustme
from portway_proto.wire.limits import LINK_ALPN
from portway_relay.ingress.decision import Alert
from portway_relay.visits import VisitedName
from portway_testkit.fakes.clock import ManualClock
from portway_testkit.fakes.front_door import GREETING, HOST, LABEL, NODE, Around, FrontMaker, answer, visit
from portway_testkit.links.carrier_link import until
from portway_testkit.visitors.hellos import message, real_hello, records, server_name


async def test_a_visitor_reaches_its_tunnel(open_front: FrontMaker, around: Around, authority: trustme.CA) -> None:
    """A known name is handed on with its hello unread: the handshake is made by who takes the visitor."""
    front = open_front()
    assert await visit(front, authority, "h2") == (GREETING, None)
    ((peer, tunnel, name, alpn),) = around.visitors
    assert name == VisitedName(HOST, "fra")
    assert around.asked == []
    assert peer.host == "127.0.0.1"
    assert tunnel is around.tunnel
    assert alpn == "h2"
    assert front.arrivals.accepted == 1
    assert front.half_open == 0
    assert not front.arrivals.rejected


@pytest.mark.parametrize(
    "hello",
    [
        real_hello("aaaaaaaaaaaaaaaa.fra.example.com", ["h2", "http/1.1"]),
        real_hello(f"{LABEL}.ams.example.com"),
        real_hello("localhost"),
        real_hello(None),
        real_hello(NODE),
        real_hello(HOST, [LINK_ALPN]),
        records(message([server_name(b"192.0.2.7")])),
        records(message([server_name(b"")])),
        records(message([server_name(b"a" * 5000)])),
    ],
    ids=["unknown", "elsewhere", "no label", "no name", "node", "lane", "address", "empty", "long"],
)
async def test_who_is_unknown_gets_one_answer(open_front: FrontMaker, around: Around, hello: bytes) -> None:
    """Whatever name is not served here: the same alert, byte for byte, and an end in order."""
    front = open_front()
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert front.arrivals.rejected == {"unrecognized_name": 1}
    assert around.visitors == []
    assert around.lanes == []


async def test_what_is_for_the_registry_is_handed_on_unread(open_front: FrontMaker, around: Around) -> None:
    """Under a name that the node was told since; nothing of it is consumed, and no handshake is counted."""
    front, hello = open_front(), real_hello("example.com", ["h2"])
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    around.registry_name = "example.com"
    _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    writer.write(hello)
    await until(lambda: bool(around.for_registry))
    assert around.for_registry[0].recv(65_536) == hello
    assert (around.visitors, around.asked, front.half_open) == ([], [], 0)
    writer.close()
    await writer.wait_closed()


async def test_what_is_for_the_registry_is_refused_without_a_place(open_front: FrontMaker, around: Around) -> None:
    """With the alert that says that it is no matter of the name, and counted by itself."""
    around.registry_name, around.has_place = "example.com", False
    front = open_front()
    assert await answer(front, real_hello("example.com", ["h2"])) == Alert.INTERNAL_ERROR.record
    assert front.arrivals.rejected == {"registry": 1}


async def test_tls_libraries_understand_the_refusal(open_front: FrontMaker, authority: trustme.CA) -> None:
    """OpenSSL reports the alert as what it is."""
    front = open_front()
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
        await visit(front, authority, name="aaaaaaaaaaaaaaaa.fra.example.com")


async def test_a_full_tunnel_is_an_error_of_ours(open_front: FrontMaker, around: Around) -> None:
    """A visitor over the tunnel's limit is refused before any cryptography."""
    visit: Any = object()
    around.tunnel.visits.add(visit)
    front = open_front()
    assert await answer(front, real_hello(HOST)) == Alert.INTERNAL_ERROR.record
    assert front.arrivals.rejected == {"internal_error": 1}


async def test_a_clients_lane_is_handed_on(open_front: FrontMaker, around: Around) -> None:
    """The ALPN of lanes and this node's name: the socket goes to the sessions, with its hello unread."""
    front = open_front()
    hello = real_hello(NODE, [LINK_ALPN])
    _, writer = await asyncio.open_connection("127.0.0.1", front.address.listening.port)
    writer.write(hello)
    await until(lambda: bool(around.lanes))
    assert around.lanes[0].recv(1 << 16) == hello
    assert not front.arrivals.rejected
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("public_port", [0, 443, 8443])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PROPFIND", "QUERY"])
async def test_http_in_clear_text_is_redirected(
    open_front: FrontMaker, around: Around, public_port: int, method: str
) -> None:
    """A request on the TLS port is sent to the same path under https, at the public port; then the end."""
    front = open_front(public_port=public_port)
    head = (await answer(front, f"{method} /a?b=c HTTP/1.1\r\nHost: {HOST}:80\r\n\r\n".encode())).decode()
    port = {0: f":{front.address.listening.port}", 443: "", 8443: ":8443"}[public_port]
    assert head.startswith("HTTP/1.1 308 Permanent Redirect\r\n")
    assert f"\r\nLocation: https://{HOST}{port}/a?b=c\r\n" in head
    assert around.plain == {"redirected": 1}
    assert not front.arrivals.rejected


async def test_http_for_another_host_is_told_to_use_https(open_front: FrontMaker, around: Around) -> None:
    """There is no redirect to a host that is not served here: a page names the scheme."""
    front = open_front(public_port=8443)
    page = (await answer(front, b"GET /a HTTP/1.1\r\nHost: www.example.org\r\n\r\n")).decode()
    assert page.startswith("HTTP/1.1 400 Bad Request\r\n")
    assert page.endswith("Try https://www.example.org:8443/\n")
    assert around.plain == {"plain_http": 1}


async def test_an_upload_in_clear_text_reads_its_answer(open_front: FrontMaker) -> None:
    """What the visitor still sends does not turn the answer into a reset."""
    front = open_front()
    request = f"POST /upload HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\n".encode() + bytes(1_000_000)
    assert (await answer(front, request)).startswith(b"HTTP/1.1 308 ")


async def test_redirects_in_progress_are_bounded(open_front: FrontMaker, around: Around, clock: ManualClock) -> None:
    """A network that asks for more than its share is closed on, until time has passed."""
    front = open_front(limits={"max_half_open": 4})
    request = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    answers = [await answer(front, request) for _ in range(4)]
    assert all(head.startswith(b"HTTP/1.1 308 ") for head in answers)
    with pytest.raises(ConnectionResetError):
        await answer(front, request)
    assert around.plain == {"redirected": 4, "answers": 1}
    clock.now += 10
    assert (await answer(front, request)).startswith(b"HTTP/1.1 308 ")


@pytest.mark.parametrize(
    "garbage", [b"SSH-2.0-OpenSSH_9.2\r\n", bytes(100), b"\x80\x2e\x01\x00\x02" + bytes(41), b"hello\n"]
)
async def test_garbage_is_refused(open_front: FrontMaker, garbage: bytes) -> None:
    """Bytes that are neither TLS nor HTTP get an alert and the end."""
    front = open_front()
    assert await answer(front, garbage) == Alert.DECODE_ERROR.record
    assert front.arrivals.rejected == {"decode_error": 1}


@pytest.mark.parametrize(
    "header", [b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 443\r\n", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]
)
async def test_a_proxy_header_is_refused_loudly(
    open_front: FrontMaker, caplog: pytest.LogCaptureFixture, header: bytes
) -> None:
    """Of either version: a load balancer is set up wrongly, and every visitor would be refused without a word. Counted
    under a reason of its own."""
    front = open_front()
    for sent in (header + real_hello(HOST), header):
        assert await answer(front, sent) == Alert.DECODE_ERROR.record
    assert front.arrivals.rejected == {"proxy_header": 2}
    told = [record.__dict__ for record in caplog.records if "PROXY header" in record.message]
    assert {(one["port"], one["peer"]) for one in told} == {("public", "127.0.0.1")}


async def test_a_region_without_a_certificate_is_refused_loudly(
    open_front: FrontMaker, around: Around, caplog: pytest.LogCaptureFixture
) -> None:
    """Counted under a reason of its own, and logged as one fact, which the log counts; visitors learn nothing."""
    front = open_front()
    around.lacking = frozenset({"lhr.example.com"})
    hello = real_hello(f"{LABEL}.lhr.example.com")
    for _ in range(3):
        assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert await answer(front, hello) == Alert.UNRECOGNIZED_NAME.record
    assert front.arrivals.rejected == {"no_certificate": 4}
    told = [record.__dict__ for record in caplog.records if "no certificate" in record.message]
    assert [one["names"] for one in told] == ["*.lhr.example.com"] * 4

"""Routes: who gets a visitor, and that all who are turned away learn the same."""

import pytest
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_relay.ingress.client_hello import Parsed
from portway_relay.ingress.decision import (
    Alert,
    ClientLane,
    ForRegistry,
    PeerLane,
    PlainHttp,
    Refuse,
    Visitor,
    choose_alpn,
    choose_group,
    decide,
)
from portway_relay.net.plain_http import Request
from portway_runtime.parse_results import Invalid
from portway_runtime.tls_choices import Group

LABEL = "k5zq2w7b3xav6mdy"
ZONE = "fra.example.com"
OTHER_ZONE = "ams.example.com"
HOST = f"{LABEL}.{ZONE}"
SERVER_NAME = "relay-1.node.portway.internal"
UNKNOWN = Refuse(Alert.UNRECOGNIZED_NAME)

Route = Visitor | ClientLane | PeerLane | ForRegistry | PlainHttp | Refuse
REGISTRY = "example.com"


def routed(
    sni: str | None = HOST, alpn: tuple[str, ...] = (), groups: tuple[int, ...] = (29, 23), shares: tuple[int, ...] = ()
) -> Route:
    """Where a hello goes at a node that has certificates for two regions."""
    hello = Parsed(sni, alpn, groups, shares)
    return decide(hello, zones={ZONE, OTHER_ZONE}, server_name=SERVER_NAME)


@pytest.mark.parametrize("sni", [HOST, HOST.upper(), f"{LABEL.upper()}.{ZONE}", f"{HOST}.", f"{HOST.upper()}."])
def test_a_label_is_looked_up(sni: str) -> None:
    """Host names are the same in any case, and with the last dot of a fully qualified name."""
    assert routed(sni, ("h2",)) == Visitor(LABEL, ZONE, ("h2",), Group.X25519)


def test_a_label_of_another_region_is_looked_up() -> None:
    """Every node serves the names of every region that it has a certificate for."""
    assert routed(f"{LABEL}.{OTHER_ZONE}") == Visitor(LABEL, OTHER_ZONE, (), Group.X25519)


@pytest.mark.parametrize(
    "sni",
    [
        None,
        "",
        ".",
        LABEL,
        ZONE,
        f".{ZONE}",
        f"{LABEL}.iad.example.com",  # a region that there is no certificate for
        f"{LABEL}.{ZONE}..",
        f"{LABEL}..{ZONE}",
        f"{LABEL}.",
        f"www.{HOST}",
        f"{LABEL}x.{ZONE}",
        f"{LABEL[:-1]}1.{ZONE}",  # 1 is no base32
        f"{LABEL} .{ZONE}",
        "192.0.2.7",
        "2001:db8::1",
        "[::1]",
        "a" * 5000,
        f"{LABEL}\x00.{ZONE}",
        SERVER_NAME,  # without the ALPN of lanes
    ],
)
def test_all_other_names_are_answered_alike(sni: str | None) -> None:
    """A name that is unknown, malformed, missing or an IP address tells who guesses nothing."""
    assert routed(sni) == UNKNOWN
    assert routed(sni, ("h2", "http/1.1")) == UNKNOWN


@pytest.mark.parametrize("sni", [f"admin.{ZONE}", f"{LABEL}.elsewhere", LABEL])
def test_only_labels_are_looked_up(sni: str) -> None:
    """What has no label's form is never asked for."""
    assert routed(sni) == UNKNOWN


@pytest.mark.parametrize("sni", [SERVER_NAME, SERVER_NAME.upper(), f"{SERVER_NAME}."])
def test_a_clients_lane_names_the_node(sni: str) -> None:
    """The ALPN of lanes with this node's own name is a client's lane; that of the mesh, another node's."""
    assert routed(sni, (LINK_ALPN,)) == ClientLane(Group.X25519)
    assert routed(sni, (MESH_ALPN,)) == PeerLane(Group.X25519)
    assert routed(sni, ("http/1.1", LINK_ALPN)) == ClientLane(Group.X25519)


def test_a_lane_has_the_group_of_its_hello() -> None:
    """X25519, or P-256 where the dialler's library has no other; neither is no lane."""
    for alpn, kind in ((LINK_ALPN, ClientLane), (MESH_ALPN, PeerLane)):
        assert routed(SERVER_NAME, (alpn,), (29, 23), (29,)) == kind(Group.X25519)
        assert routed(SERVER_NAME, (alpn,), (23,), (23,)) == kind(Group.P256)
        assert routed(SERVER_NAME, (alpn,), (24,), (24,)) == Refuse(Alert.HANDSHAKE_FAILURE)


@pytest.mark.parametrize("sni", [HOST, None, "relay-2.node.portway.internal", ZONE, f"x{SERVER_NAME}"])
def test_a_lane_for_somebody_else_is_refused(sni: str | None) -> None:
    """The ALPN of lanes is never a visitor's, even with a tunnel's name."""
    assert routed(sni, (LINK_ALPN,)) == UNKNOWN
    assert routed(sni, (MESH_ALPN,)) == UNKNOWN


def test_another_protocol_is_no_lane() -> None:
    """Nothing but the exact ALPN opens a lane."""
    for protocol in ("portway-mesh/2", MESH_ALPN.upper(), "portway-link/2", LINK_ALPN.upper(), LINK_ALPN + " "):
        assert routed(SERVER_NAME, (protocol,)) == Refuse(Alert.NO_APPLICATION_PROTOCOL)


@pytest.mark.parametrize(
    ("offered", "h2_enabled", "chosen"),
    [
        ((), False, None),
        ((), True, None),
        (("http/1.1",), False, "http/1.1"),
        (("http/1.1",), True, "http/1.1"),
        (("h2", "http/1.1"), False, "http/1.1"),  # a browser
        (("h2", "http/1.1"), True, "http/1.1"),  # a browser still: its connections are shared between host names
        (("http/1.1", "h2"), True, "http/1.1"),
        (("h2",), False, None),
        (("h2",), True, "h2"),  # a gRPC client
        (("grpc-exp", "h2"), True, "h2"),
        (("\n\n", "h2", "http/1.1"), True, "http/1.1"),
        (("http/1.0",), True, None),
        (("H2",), True, None),
    ],
)
def test_h2_is_for_those_that_offer_nothing_else(
    offered: tuple[str, ...], h2_enabled: bool, chosen: str | None
) -> None:
    """h2 goes to visitors of tunnels that allow it, and only to those that do not offer http/1.1 beside it."""
    assert choose_alpn(offered, h2_enabled=h2_enabled) == chosen


@pytest.mark.parametrize("name", [HOST, f"{LABEL[::-1]}.{ZONE}", SERVER_NAME, "192.0.2.7", None])
def test_protocols_that_are_not_served_are_refused(name: str | None) -> None:
    """Who offers nothing else is told so (RFC 7301 §3.2), with a name that is known or not."""
    for offered in [("http/1.0",), ("imap", "pop3"), ("",), ("\n\n",), ("H2",)]:
        assert routed(name, offered) == Refuse(Alert.NO_APPLICATION_PROTOCOL)


def test_one_protocol_that_is_served_is_enough() -> None:
    """Others beside it are ignored; h2 alone is served without a protocol by tunnels that do not allow it."""
    for offered in [("imap", "http/1.1"), ("\n\n", "h2"), ("h2",)]:
        assert isinstance(routed(HOST, offered), Visitor)


@pytest.mark.parametrize(
    ("groups", "shares", "chosen"),
    [
        ((29,), (29,), Group.X25519),
        ((23,), (23,), Group.P256),
        ((29, 23), (29, 23), Group.X25519),
        ((23, 29), (23, 29), Group.P256),  # OpenSSL takes the first share
        ((0x0104, 29, 23), (0x0104, 29), Group.P256),  # and would take this one
        ((0x0104, 29), (0x0104, 29), None),
        ((29, 0x0104), (29, 0x0104), Group.X25519),
        ((0x2A2A, 0x11EC, 29), (0x2A2A, 0x11EC, 29), Group.X25519),  # Chromium
        ((23, 29), (23,), Group.P256),  # the other one would cost a round trip
        ((0x11EC, 29, 23), (0x11EC,), Group.X25519),  # a post-quantum share alone
        ((0x0104, 23), (0x0104,), Group.P256),
        ((29,), (), Group.X25519),
        ((23,), (29,), Group.P256),  # a share of a group that is not offered is for OpenSSL to refuse
        ((), (), Group.P256),
        ((0x0104,), (0x0104,), None),
        ((24, 25, 30), (24,), None),
        ((0x0A0A,), (0x0A0A,), None),
    ],
)
def test_the_group_is_one_that_is_cheap(groups: tuple[int, ...], shares: tuple[int, ...], chosen: Group | None) -> None:
    """X25519 or P-256, whichever OpenSSL is certain to use; finite fields and larger curves never."""
    assert choose_group(groups, shares) == chosen


@pytest.mark.parametrize("name", [HOST, f"{LABEL[::-1]}.{ZONE}", SERVER_NAME, "192.0.2.7", None])
@pytest.mark.parametrize("alpn", [(), ("http/1.1",), (LINK_ALPN,), (MESH_ALPN,), ("imap",)])
def test_costly_groups_are_refused_whatever_else_is_offered(name: str | None, alpn: tuple[str, ...]) -> None:
    """Visitors and lanes alike, with a name that is known or not."""
    assert routed(name, alpn, (0x0104, 24)) == Refuse(Alert.HANDSHAKE_FAILURE)


@pytest.mark.parametrize("sni", [REGISTRY, REGISTRY.upper(), f"{REGISTRY}."])
@pytest.mark.parametrize("alpn", [(), ("h2",), ("imap",), (LINK_ALPN,)])
@pytest.mark.parametrize("groups", [(29,), (24,)])
def test_what_is_for_the_registry_is_its_own_matter(sni: str, alpn: tuple[str, ...], groups: tuple[int, ...]) -> None:
    """Its TLS ends there, so nothing else of the hello is looked at. A node that knows no registry refuses it."""
    hello = Parsed(sni, alpn, groups, ())
    answer: Route = decide(hello, zones={ZONE}, server_name=SERVER_NAME, registry_name=REGISTRY)
    assert answer == ForRegistry()
    unknown: Route = decide(hello, zones={ZONE}, server_name=SERVER_NAME)
    assert isinstance(unknown, Refuse)


def test_names_below_the_registry_s_are_tunnels() -> None:
    """As the registry has the domain's name by default."""
    hello = Parsed(HOST, (), (29,), ())
    answer: Route = decide(hello, zones={ZONE}, server_name=SERVER_NAME, registry_name=REGISTRY)
    assert answer == Visitor(LABEL, ZONE, (), Group.X25519)
    nameless: Route = decide(Parsed(None, (), (29,), ()), zones={ZONE}, server_name=SERVER_NAME, registry_name=REGISTRY)
    assert nameless == UNKNOWN


def test_http_in_clear_text_is_told_apart() -> None:
    """Who speaks HTTP where TLS is spoken can be redirected."""
    answer: Route = decide(Request(b"/x", b"a"), zones={ZONE}, server_name=SERVER_NAME)
    assert answer == PlainHttp(Request(b"/x", b"a"))


def test_garbage_gets_an_alert() -> None:
    """Everything else that is no ClientHello is refused the way TLS refuses it."""
    answer: Route = decide(Invalid("not a TLS handshake"), zones={ZONE}, server_name=SERVER_NAME)
    assert answer == Refuse(Alert.DECODE_ERROR)


@pytest.mark.parametrize("alert", list(Alert))
def test_alerts_are_fatal_records(alert: Alert) -> None:
    """An alert is a record on its own: type 21, TLS 1.2's number, two bytes, fatal, its number (RFC 8446 §6)."""
    assert alert.record == bytes([21, 3, 3, 0, 2, 2, alert.value])


@pytest.mark.parametrize(("label", "lacking"), [(LABEL, "iad.example.com"), ("no-label", "iad.example.com")])
def test_a_region_without_a_certificate_is_told_apart_for_operators_alone(label: str, lacking: str) -> None:
    """The visitor gets the alert of every unknown name, whether the label has the form of one or not."""
    hello = Parsed(f"{label}.{lacking}", (), (29,), ())
    answer: Route = decide(hello, zones={ZONE}, server_name=SERVER_NAME, lacking={lacking})
    assert answer == Refuse(Alert.UNRECOGNIZED_NAME, lacking)
    assert answer.alert.record == UNKNOWN.alert.record
    other: Route = decide(hello, zones={ZONE}, server_name=SERVER_NAME, lacking={"lhr.example.com"})
    assert other == UNKNOWN

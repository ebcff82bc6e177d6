"""Clients that offer TLS 1.2 at most, for each kind of connection to a node's one port."""

import socket
import ssl

import pytest
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN
from portway_testkit.visitors.siege import Besieged
from portway_testkit.visitors.visiting import TIMEOUT

pytestmark = pytest.mark.shares_sockets


def handshake(node: Besieged, name: str, alpn: str, version: ssl.TLSVersion) -> tuple[str | None, str | None]:
    """The version and the protocol that were chosen. Raises ssl.SSLError."""
    context = ssl.create_default_context(cafile=str(node.ca))
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols([alpn])
    with (
        socket.create_connection((node.host, node.port), TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=name) as sealed,
    ):
        return sealed.version(), sealed.selected_alpn_protocol()


@pytest.mark.parametrize("alpn", [LINK_ALPN, MESH_ALPN])
def test_lanes_are_not_accepted_by_tls_1_2(besieged: Besieged, alpn: str) -> None:
    """A client's lane and another node's alike, before any certificate is sent; 1.3 with the same offer is taken."""
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        handshake(besieged, besieged.server_name, alpn, ssl.TLSVersion.TLSv1_2)
    assert handshake(besieged, besieged.server_name, alpn, ssl.TLSVersion.TLSv1_3) == ("TLSv1.3", alpn)


def test_visitors_may_have_tls_1_2(besieged: Besieged) -> None:
    """Old browsers and libraries are the reason; a tunnel's name is no way around the rule for lanes."""
    name = besieged.tunnel.host
    assert handshake(besieged, name, "http/1.1", ssl.TLSVersion.TLSv1_2) == ("TLSv1.2", "http/1.1")
    for alpn in (LINK_ALPN, MESH_ALPN):
        with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
            handshake(besieged, name, alpn, ssl.TLSVersion.TLSv1_2)

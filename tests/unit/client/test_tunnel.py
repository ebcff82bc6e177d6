"""portway.tunnel: the fields and properties that code written for Modal uses."""

import dataclasses

import pytest
from portway import InvalidError, Tunnel


def test_the_url_leaves_out_the_port_that_is_usual() -> None:
    """443 is https's own."""
    assert Tunnel("a.test", 443).url == "https://a.test"
    assert Tunnel("a.test", 8443).url == "https://a.test:8443"


def test_sockets_are_pairs_for_connect() -> None:
    """Host and port, with TLS and without."""
    tunnel = Tunnel("a.test", 443, "b.test", 20001)
    assert tunnel.tls_socket == ("a.test", 443)
    assert tunnel.tcp_socket == ("b.test", 20001)


def test_a_tunnel_without_a_tcp_port_says_how_to_get_one() -> None:
    """The property raises; the fields are empty."""
    tunnel = Tunnel("a.test", 443)
    assert (tunnel.unencrypted_host, tunnel.unencrypted_port) == ("", 0)
    with pytest.raises(InvalidError, match="unencrypted=True"):
        _ = tunnel.tcp_socket


def test_it_is_a_frozen_dataclass_with_modal_s_fields() -> None:
    """In Modal's order."""
    names = [field.name for field in dataclasses.fields(Tunnel)]
    assert names == ["host", "port", "unencrypted_host", "unencrypted_port"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Tunnel("a.test", 443).host = "b.test"  # type: ignore[misc]

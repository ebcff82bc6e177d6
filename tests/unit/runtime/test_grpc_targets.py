"""Targets of gRPC, and what gRPC makes of them."""

import socket

import grpc
import pytest
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import OWN_CONNECTIONS
from portway_runtime.grpc_targets import is_address, target_of
from portway_runtime.names import Address
from portway_testkit.processes.ports import free_port


def test_a_target_holds_the_addresses_of_both_families() -> None:
    """Those of IPv4 in their IPv6 form when there are both; the certificate is to be for the name, or another."""
    endpoint = Endpoint("registry.test", 7400)
    v4, v6 = Address(socket.AF_INET, "192.0.2.1"), Address(socket.AF_INET6, "2001:db8::1")
    name = "grpc.ssl_target_name_override"
    assert target_of(endpoint, [v4, v4]) == ("ipv4:192.0.2.1:7400,192.0.2.1:7400", ((name, "registry.test"),))
    assert target_of(endpoint, [v6]) == ("ipv6:[2001:db8::1]:7400", ((name, "registry.test"),))
    both = "ipv6:[2001:db8::1]:7400,[::ffff:192.0.2.1]:7400"
    assert target_of(endpoint, [v6, v4], "other.test") == (both, ((name, "other.test"),))


def test_grpc_is_given_addresses_as_they_are() -> None:
    """A name is looked up before."""
    assert is_address(Endpoint("::1", 7400))
    assert not is_address(Endpoint("registry.test", 7400))


@pytest.mark.shares_sockets
def test_an_address_that_loses_everything_costs_a_moment() -> None:
    """gRPC dials the next address beside it; an IPv4 address in its IPv6 form is dialled as IPv4."""
    v4 = [Address(socket.AF_INET, host) for host in ("127.0.0.2", "127.0.0.1")]
    addresses = [v4[0], Address(socket.AF_INET6, "::1"), v4[1]]
    with (
        socket.create_server(("127.0.0.1", free_port())) as answers,
        socket.socket() as loses,
        socket.socket() as filler,
    ):
        port = answers.getsockname()[1]
        loses.bind(("127.0.0.2", port))
        loses.listen(0)
        filler.connect(loses.getsockname())
        target, _ = target_of(Endpoint("registry.test", port), addresses)
        with grpc.insecure_channel(target, OWN_CONNECTIONS) as channel:
            channel.subscribe(lambda _: None, try_to_connect=True)
            answers.settimeout(20)
            sock, peer = answers.accept()
            sock.close()
            assert peer[0] == "127.0.0.1"

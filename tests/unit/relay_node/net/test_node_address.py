"""A node's address: known in part before it listens, and as a whole from then on."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from portway_relay.config import NodeConfig
from portway_relay.net.node_address import NodeAddress, PublicAddress
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import ListenError

MakeConfig = Callable[..., NodeConfig]


@pytest.fixture
def opened(node_config: MakeConfig) -> Iterator[Callable[..., NodeAddress]]:
    """Makes addresses of a node that listens, on a port of the system's choice."""
    sockets = []

    def make(**changes: Any) -> NodeAddress:
        address = NodeAddress(node_config(**changes))
        sockets.extend(address.open())
        return address

    yield make
    for sock in sockets:
        sock.close()


def test_the_port_is_known_once_it_is_open(node_config: MakeConfig, opened: Callable[..., NodeAddress]) -> None:
    """Before, it is 0; then it is the one that the system gave."""
    assert NodeAddress(node_config()).listening.port == 0
    address = opened()
    assert address.listening.host == "127.0.0.1"
    assert address.listening.port > 0


def test_a_port_that_is_taken_is_an_error(node_config: MakeConfig, opened: Callable[..., NodeAddress]) -> None:
    """The address stays as it was."""
    address = NodeAddress(node_config(listen=opened().listening))
    with pytest.raises(ListenError):
        address.open()
    assert address.listening.port == 0


def test_the_advertised_address_may_lack_a_port(opened: Callable[..., NodeAddress]) -> None:
    """Then it is the port that is listened on; without an advertised address all of it is."""
    own = opened()
    assert own.advertised == own.listening
    other = opened(advertise=Endpoint("relay.example.com", 0))
    assert other.advertised == Endpoint("relay.example.com", other.listening.port)
    assert opened(advertise=Endpoint("relay.example.com", 443)).advertised == Endpoint("relay.example.com", 443)


def test_the_public_address_is_what_visitors_use(opened: Callable[..., NodeAddress]) -> None:
    """A balancer may change the port, raw ports may have a host name of their own."""
    own = opened()
    assert own.public_address() == PublicAddress("fra.example.com", own.listening.port, "fra.example.com")
    mapped = opened(public_port=443, raw_host="raw.example.com")
    assert mapped.public_address() == PublicAddress("fra.example.com", 443, "raw.example.com")

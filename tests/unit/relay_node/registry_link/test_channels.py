"""What a node's channels to registries are made with."""

import socket

import pytest
from portway_relay.registry_link.channels import RegistryChannels, Unresolved
from portway_runtime.endpoints import Endpoint
from portway_runtime.identities import REGISTRY_NAME
from portway_runtime.names import Address
from portway_testkit.fakes.fake_mesh import Certified

NAMED = Endpoint("registry.example.com", 7401)
ADDRESSES = [Address(socket.AF_INET, host) for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3")]
COMMON = (("grpc.ssl_target_name_override", REGISTRY_NAME),)


class Known:
    """Names that need no resolver."""

    def __init__(self, addresses: list[Address]) -> None:
        self._addresses = addresses

    async def addresses(self, host: str) -> list[Address]:
        if not self._addresses:
            raise OSError("no such name")
        return self._addresses

    def forget(self, host: str) -> None: ...


def channels(certified: Certified, monkeypatch: pytest.MonkeyPatch, addresses: list[Address]) -> RegistryChannels:
    made = RegistryChannels(certified.loaded)
    monkeypatch.setattr(made, "_names", Known(addresses))
    return made


async def test_a_registry_that_was_lost_is_sought_at_another_address(
    certified: Certified, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its name, which may lead to several replicas; after the last address comes the first."""
    made = channels(certified, monkeypatch, ADDRESSES)
    order = []
    for _ in range(4):
        ((target, options),) = await made.ways_to(NAMED)
        assert options == COMMON
        order.append(target)
        made.forget(NAMED)
    assert order[0] == order[3] == "ipv4:192.0.2.1:7401,192.0.2.2:7401,192.0.2.3:7401"
    assert order[1] == "ipv4:192.0.2.2:7401,192.0.2.3:7401,192.0.2.1:7401"
    assert order[2] == "ipv4:192.0.2.3:7401,192.0.2.1:7401,192.0.2.2:7401"


async def test_each_address_may_be_asked_by_itself(certified: Certified, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for what one replica alone can say."""
    made = channels(certified, monkeypatch, ADDRESSES)
    made.forget(NAMED)
    assert [target for target, _ in await made.ways_to(NAMED, apart=True)] == [
        f"ipv4:{one.host}:7401" for one in ADDRESSES
    ]
    assert await made.ways_to(Endpoint("192.0.2.9", 7401), apart=True) == [("192.0.2.9:7401", COMMON)]


async def test_a_name_that_leads_nowhere_is_told(certified: Certified, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an address that is none."""
    with pytest.raises(Unresolved, match="cannot be resolved: no such name"):
        await channels(certified, monkeypatch, []).ways_to(NAMED)


async def test_both_names_of_a_certificate_are_tried(certified: Certified) -> None:
    """The common one, then the host's; then the common one again, as after the registry was upgraded."""
    made = RegistryChannels(certified.loaded)
    address = Endpoint("192.0.2.9", 7401)
    assert made.has_another_name(address)
    assert await made.ways_to(address) == [("192.0.2.9:7401", ())]
    assert not made.has_another_name(address)
    assert await made.ways_to(address) == [("192.0.2.9:7401", COMMON)]

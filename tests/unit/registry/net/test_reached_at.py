"""Which address of a port nodes are told."""

import ipaddress

import pytest
from portway_registry.net import reached_at as reached_at_module
from portway_registry.net.reached_at import reached_at
from portway_runtime.endpoints import Endpoint


@pytest.mark.parametrize(
    ("advertised", "listening", "told"),
    [
        (Endpoint("r1.example.com", 443), Endpoint("::", 7400), "r1.example.com:443"),
        (Endpoint("r1.example.com", 0), Endpoint("::", 7400), "r1.example.com:7400"),
        (None, Endpoint("192.0.2.7", 7400), "192.0.2.7:7400"),
        (None, Endpoint("::1", 7400), "[::1]:7400"),
    ],
)
def test_an_address_that_was_given_is_told(advertised: Endpoint | None, listening: Endpoint, told: str) -> None:
    """Without a port of its own, with the one that is listened on."""
    assert str(reached_at(advertised, listening)) == told


@pytest.mark.parametrize("everywhere", ["::", "0.0.0.0", ""])
def test_for_every_address_one_of_this_machine_is_told(everywhere: str) -> None:
    """The one that it would send from; none where no route leads anywhere."""
    found = reached_at(None, Endpoint(everywhere, 7400))
    assert found is None or (not ipaddress.ip_address(found.host).is_unspecified and found.port == 7400)


def test_without_a_route_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where the machine lacks a family of addresses."""
    monkeypatch.setattr(reached_at_module, "_ELSEWHERE", ((999, "192.0.2.1"), (2, "256.0.0.1")))
    assert reached_at(None, Endpoint("::", 7400)) is None

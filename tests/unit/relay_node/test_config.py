"""What a configuration must keep, and what it says when it does not."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from portway_relay import config as config_module
from portway_relay.config import LEAST, NodeConfig, NodeLimits, PortRange
from portway_relay.errors import ConfigError
from portway_runtime.endpoints import Endpoint

Make = Callable[..., NodeConfig]


@pytest.fixture(autouse=True)
def usual_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A system that gives outgoing connections the ports Linux does by default."""
    file = tmp_path / "ip_local_port_range"
    file.write_text("32768\t60999\n")
    monkeypatch.setattr(config_module, "_EPHEMERAL_PORTS", file)
    return file


def complaint(config: NodeConfig) -> str:
    with pytest.raises(ConfigError) as caught:
        config.check()
    return str(caught.value)


def test_a_usual_configuration_is_accepted(node_config: Make) -> None:
    """Defaults pass their own validation."""
    node_config().check()
    assert all(getattr(NodeLimits(), limit.name) >= limit.metadata[LEAST] for limit in fields(NodeLimits))


def test_names_follow_from_it(node_config: Make) -> None:
    """The node's own name for lanes and the zone of its tunnels."""
    config = node_config(name="relay-7", region="ams", domain="tunnels.example.com")
    assert config.server_name == "relay-7.node.portway.internal"
    assert config.zone == "ams.tunnels.example.com"


@pytest.mark.parametrize("value", ["", "Relay", "a.b", "-a", "a-", "a_b", "a b", "é", "a" * 64, "a\n"])
@pytest.mark.parametrize("setting", ["name", "region"])
def test_a_name_is_one_dns_label(node_config: Make, setting: str, value: str) -> None:
    """What could not stand in a host name is refused, and shown as it was read."""
    message = complaint(node_config(**{setting: value}))
    assert f"--{setting} {value!r}" in message
    assert "lower-case letters" in message


@pytest.mark.parametrize("value", ["a", "0", "a-b", "a" * 63, "xn--bcher-kva"])
def test_short_and_long_labels_are_names(node_config: Make, value: str) -> None:
    """Every label that DNS knows is a name."""
    node_config(name=value, region=value).check()


@pytest.mark.parametrize("value", ["", ".", "example..com", ".example.com", "example.com.", "Example.com", "a b.com"])
def test_a_domain_is_a_dns_name(node_config: Make, value: str) -> None:
    """Labels with dots between, and nothing else."""
    message = complaint(node_config(domain=value))
    assert f"--domain {value!r}" in message
    assert "tunnels.example.com" in message


def test_host_names_fit_into_dns(node_config: Make) -> None:
    """A label, the region and the domain have 253 characters at the most."""
    longest = 253 - len("k5zq2w7b3xav6mdy.fra.")
    domain = ("a" * 60 + ".") * 3
    node_config(domain=domain + "b" * (longest - len(domain))).check()
    message = complaint(node_config(domain=domain + "b" * (longest - len(domain) + 1)))
    assert "253" in message
    assert "--domain" in message


def test_a_registry_is_needed(node_config: Make) -> None:
    """A node without one could verify nothing."""
    assert "--registry is missing" in complaint(node_config(registry=()))


@pytest.mark.parametrize("registry", [Endpoint("", 7443), Endpoint("0.0.0.0", 7443), Endpoint("registry", 0)])
def test_a_registry_can_be_dialled(node_config: Make, registry: Endpoint) -> None:
    """No host or no port is nothing to connect to; one bad address of several is refused."""
    message = complaint(node_config(registry=(Endpoint("registry", 7443), registry)))
    assert f"--registry {registry}" in message


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])
def test_every_address_is_none_that_clients_can_reach(node_config: Make, host: str) -> None:
    """Who listens everywhere must say what clients are told, and cannot say "everywhere" there either."""
    everywhere = Endpoint(host, 443)
    missing = complaint(node_config(listen=everywhere))
    assert f"--advertise is missing: --listen {everywhere}" in missing
    assert "--advertise relay-1.example.com:443" in missing
    assert f"--advertise {everywhere}" in complaint(node_config(listen=everywhere, advertise=everywhere))
    node_config(listen=everywhere, advertise=Endpoint("relay-1.example.com", 443)).check()


@pytest.mark.parametrize(
    "place", [{"latitude": 90.1}, {"latitude": -91.0}, {"longitude": 180.5}, {"longitude": float("nan")}]
)
def test_a_node_is_on_earth(node_config: Make, place: dict[str, Any]) -> None:
    """Degrees outside the globe would put it first or last everywhere."""
    assert "not a place on Earth" in complaint(node_config(**place))


@pytest.mark.parametrize(
    "ports",
    [PortRange(32_000, 32_768), PortRange(40_000, 40_010), PortRange(60_999, 65_535), PortRange(1024, 65_535)],
)
def test_raw_ports_are_not_the_systems(node_config: Make, ports: PortRange) -> None:
    """A port that the system gives to outgoing connections could be gone when a tunnel needs it."""
    message = complaint(node_config(raw_ports=ports))
    assert f"--raw-ports {ports} overlaps 32768-60999" in message
    assert "within 1024-32767" in message


@pytest.mark.parametrize("ports", [PortRange(1024, 32_767), PortRange(61_000, 65_535)])
def test_raw_ports_may_touch_the_systems(node_config: Make, ports: PortRange) -> None:
    """Both ends of a range belong to it."""
    node_config(raw_ports=ports).check()


def test_the_larger_free_range_is_proposed(node_config: Make, usual_system: Path) -> None:
    """The advice fits the system at hand."""
    usual_system.write_text("1024 30000\n")
    assert "within 30001-65535" in complaint(node_config())
    usual_system.write_text("1024 65535\n")
    message = complaint(node_config())
    assert "within" not in message
    assert message.endswith("change it")


def test_a_system_that_does_not_tell_is_believed(node_config: Make, usual_system: Path) -> None:
    """Where there is no such file, any range may be right."""
    usual_system.write_text("what?\n")
    node_config(raw_ports=PortRange(40_000, 50_000)).check()
    usual_system.unlink()
    node_config(raw_ports=PortRange(40_000, 50_000)).check()


def test_values_show_as_they_are_written() -> None:
    """Endpoints and ranges read in messages as on the command line."""
    assert str(Endpoint("relay.example.com", 443)) == "relay.example.com:443"
    assert str(Endpoint("::1", 443)) == "[::1]:443"
    assert str(PortRange(20_000, 29_999)) == "20000-29999"
    assert len(PortRange(20_000, 29_999)) == 10_000
    assert 20_000 in PortRange(20_000, 29_999)
    assert 30_000 not in PortRange(20_000, 29_999)


def test_public_addresses_are_those_of_the_settings_or_follow_from_them(node_config: Make) -> None:
    """What a name leads to can be told only by who can resolve it, and DNS answers have to tell."""
    assert node_config(listen=Endpoint("127.0.0.1", 443)).public_addresses == ("127.0.0.1",)
    assert node_config(advertise=Endpoint("2001:db8::1", 443)).public_addresses == ("2001:db8::1",)
    named = Endpoint("relay-1.example.com", 443)
    assert node_config(advertise=named).public_addresses == ()
    both = ("192.0.2.1", "2001:db8::1")
    assert node_config(advertise=named, public_address=both).public_addresses == both


def test_dns_needs_addresses_to_answer_with(node_config: Make) -> None:
    named = {"advertise": Endpoint("relay-1.example.com", 443), "dns_listen": (Endpoint("", 53),)}
    assert "--public-address is missing" in complaint(node_config(**named))
    node_config(**named, public_address=("192.0.2.1",)).check()


def test_dns_gets_no_more_than_the_loop(node_config: Make) -> None:
    assert "at most 100" in complaint(node_config(limits={"dns_loop_percent": 101}))
    node_config(limits={"dns_loop_percent": 100}).check()

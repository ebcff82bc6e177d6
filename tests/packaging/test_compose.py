"""deploy/compose: a compose file by its schema, whose services have what they need and no more."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import jsonschema
import pytest
import yaml
from portway_registry import config as registry_config
from portway_relay import settings as relay_settings
from portway_relay.config import NodeLimits

_ROOT = Path(__file__).resolve().parents[2]
_FILE = _ROOT / "deploy/compose/compose.yaml"
_SERVICES = ("etcd", "registry", "relay")
# What a node takes to stop after its grace period is over: see Node.stop.
_CLOSING = 5.0


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(_FILE.read_text())
    return loaded


def test_the_file_is_one_by_the_compose_specification() -> None:
    """By the schema of the module that docker compose reads its files with."""
    schemas = sorted((_ROOT / ".tools").glob("compose-spec-*.json"))
    if not schemas:
        reason = "needs the compose specification's schema: ./scripts/setup --e2e fetches it, with go"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    schema = json.loads(schemas[-1].read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(_compose(), schema, cls=jsonschema.Draft7Validator)


def test_a_service_is_left_little() -> None:
    """A root that it cannot write to, no capability but the relay's for port 443, its own folders."""
    services = _compose()["services"]
    assert set(services) == set(_SERVICES)
    for name, service in services.items():
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service.get("cap_add", []) == (["NET_BIND_SERVICE"] if name == "relay" else [])
        assert service["user"] == ("0:0" if name == "relay" else "10001:10001")
        assert service["volumes"][0] == f"./{name}:/{name}"
        assert "healthcheck" in service
    assert services["registry"]["volumes"][1:] == ["./etcd:/etcd:ro"]


def test_settings_are_ones_that_the_programs_take() -> None:
    """Every variable is known, every value understood, with what `prepare` writes down; nodes are told of addresses
    that other machines reach."""
    written = {
        "DOMAIN": "tun.example.com",
        "REGION": "fra",
        "ADDRESS": "192.0.2.11",
        "ETCD_ENDPOINTS": "https://192.0.2.11:2379",
        "REGISTRIES": "192.0.2.11:7401,198.51.100.12:7401",
        "REGION_CERTIFICATES": "/relay/region-fra.crt,/relay/region-iad.crt",
        "REGION_KEYS": "/relay/region-fra.key,/relay/region-iad.key",
    }
    services = _compose()["services"]

    def variables(name: str) -> dict[str, str]:
        return {key: Template(value).substitute(written) for key, value in services[name]["environment"].items()}

    registry = registry_config.load({}, variables("registry"))
    assert (str(registry.advertise), registry.called) == ("192.0.2.11:7400", "tun.example.com")
    assert [str(one) for one in registry.mesh_advertise] == ["192.0.2.11:7401"]
    relay = relay_settings.load({}, variables("relay"))
    assert (relay.zone, str(relay.advertise), len(relay.registry)) == ("fra.tun.example.com", "192.0.2.11:443", 2)


def test_images_are_those_of_the_release() -> None:
    """By their names, at the version that `prepare` writes down."""
    services = _compose()["services"]
    for name in ("registry", "relay"):
        assert services[name]["image"] == f"portway-{name}:${{PORTWAY_VERSION}}"
        assert services[name]["entrypoint"] == [f"portway-{name}"]
    assert f"PORTWAY_VERSION=${{PORTWAY_VERSION:-{version('portway')}}}\n" in (_FILE.parent / "prepare").read_text()


def test_a_node_is_not_killed_while_it_stops_in_order() -> None:
    """The time that Docker leaves it is longer than its own."""
    limits = NodeLimits()
    grace = float(_compose()["services"]["relay"]["stop_grace_period"].removesuffix("s"))
    assert grace >= limits.lame_duck + limits.stop_grace + _CLOSING

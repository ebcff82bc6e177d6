"""deploy/helm: a chart whose values are checked, and whose objects are what Kubernetes and Portway's programs take."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from portway_registry import config as registry_config
from portway_relay import settings as relay_settings
from portway_testkit.processes.running_program import needed

_ROOT = Path(__file__).resolve().parents[2]
_CHART = _ROOT / "deploy/helm/portway"
_VALUES = yaml.safe_load((_CHART / "values.yaml").read_text())
_CASES = sorted(path.stem.removesuffix("-values") for path in (_CHART / "ci").iterdir())
# The oldest that Chart.yaml allows, and one that came since.
_KUBERNETES = ("1.27", "1.33")
# What a node takes to stop after its grace period is over: see Node.stop.
_CLOSING = 5.0
_OBJECTS_OF_OPERATORS = {"PodMonitor"}

# Variables of the images, which come before a file of settings and after flags.
_IMAGES = {
    "PORTWAY_REGISTRY_STORE": "embedded:/var/lib/portway/registry.db",
    "PORTWAY_REGISTRY_ADMIN_TOKEN_FILE": "/var/lib/portway/admin-token",
    "PORTWAY_REGISTRY_METRICS_LISTEN": "127.0.0.1:9101",
    "PORTWAY_REGISTRY_LOG_FORMAT": "json",
    "PORTWAY_RELAY_ADMIN_LISTEN": "127.0.0.1:9100",
    "PORTWAY_RELAY_LOG_FORMAT": "json",
}

Object = dict[str, Any]


def _helm(*words: str) -> subprocess.CompletedProcess[str]:
    command = [needed("helm"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"HOME": "/nowhere"})


@cache
def _rendered(case: str, *more: str) -> str:
    values = str(_CHART / "ci" / f"{case}-values.yaml")
    done = _helm("template", "pw", str(_CHART), "--namespace=portway", "--kube-version=1.33", f"-f={values}", *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _objects(case: str, *more: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(_rendered(case, *more)) if one]


def _workloads(case: str) -> Iterator[Object]:
    yield from (one for one in _objects(case) if one["kind"] in {"DaemonSet", "StatefulSet", "Deployment"})


def _relay(case: str) -> Object:
    (found,) = (one for one in _workloads(case) if one["metadata"]["name"] == "pw-relay")
    return found


def _settings(case: str, name: str, folder: Path) -> Path:
    (found,) = (one for one in _objects(case) if one["kind"] == "ConfigMap" and one["metadata"]["name"] == f"pw-{name}")
    file = folder / f"{name}.toml"
    file.write_text(found["data"][f"{name}.toml"])
    return file


def _flags(words: list[str]) -> dict[str, str]:
    pairs = (word.removeprefix("--").split("=", 1) for word in words)
    return {name.replace("-", "_"): value for name, value in pairs}


@pytest.mark.parametrize("case", _CASES)
def test_helm_takes_the_chart(case: str) -> None:
    """And warns of nothing."""
    done = _helm("lint", "--strict", str(_CHART), f"-f={_CHART / 'ci' / f'{case}-values.yaml'}")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("release", _KUBERNETES)
@pytest.mark.parametrize("case", _CASES)
def test_kubernetes_takes_the_objects(case: str, release: str) -> None:
    """By its own schemas, with no field that it does not know."""
    objects = _objects(case)
    assert len(objects) >= 3
    for one in objects:
        if one["kind"] not in _OBJECTS_OF_OPERATORS:
            kubernetes_validate.validate(one, release, strict=True)


@pytest.mark.parametrize("case", _CASES)
def test_the_registry_s_settings_are_taken(case: str, tmp_path: Path) -> None:
    """Every key is known, every value understood."""
    if case == "region":
        assert "registry" not in {one["metadata"]["name"].removeprefix("pw-") for one in _objects(case)}
        return
    (registry,) = (one for one in _workloads(case) if one["metadata"]["name"] == "pw-registry")
    (container,) = registry["spec"]["template"]["spec"]["containers"]
    flags = _flags(container["args"][1:])
    assert flags.pop("config") == "/etc/portway/registry.toml"
    config = registry_config.load(flags, _IMAGES, _settings(case, "registry", tmp_path))
    config.check_acme()
    assert (config.acme_directory is None) == (case != "acme")
    assert (config.tls_cert is None) == (case == "acme")
    assert str(config.metrics_listen) == "[::]:9101"
    assert config.first_admin_token_file() == Path("/var/lib/portway-registry/admin-token")
    assert config.domain == "tun.example.com"
    assert config.store.startswith("etcd:https://etcd-1:2379," if case == "load-balancer" else "embedded:/var/lib/")


@pytest.mark.parametrize("case", _CASES)
def test_a_node_s_settings_and_command_are_taken(case: str, tmp_path: Path) -> None:
    """As the container's shell makes them, on a machine whose name has dots."""
    file = _settings(case, "relay", tmp_path)
    (container,) = _relay(case)["spec"]["template"]["spec"]["containers"]
    program = tmp_path / "portway-relay"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    environment = {"MACHINE": "ip-10-0-0-7.ec2.internal", "POD": "pw-relay-1", "HOST_IP": "192.0.2.7"}
    assert set(environment) == {one["name"] for one in container["env"]}
    told = subprocess.run(
        [*container["command"], *container["args"]],
        env=environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    serve, *flags = told
    given = _flags(flags)
    assert (serve, given.pop("config")) == ("serve", "/etc/portway/relay.toml")
    name = "fra-1" if case == "load-balancer" else "ip-10-0-0-7"
    config = relay_settings.load({"config": file, **given}, _IMAGES)
    assert config.name == name
    assert config.join_file == Path(f"/etc/portway/invitations/{name}")
    expected = {"daemonset": f"{name}.nodes.tun.example.com", "load-balancer": f"{name}.nodes.tun.example.com"}
    assert str(config.advertise) == f"{expected.get(case, '192.0.2.7')}:443"
    assert config.admin_listen is not None
    assert (config.admin_listen.host, config.admin_listen.port) == ("", 9100)
    assert config.region == ("iad" if case == "region" else "fra")
    # Kubernetes leaves a node more time than it takes.
    grace = _relay(case)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= config.limits.lame_duck + config.limits.stop_grace + _CLOSING


@pytest.mark.parametrize("case", _CASES)
def test_budgets_services_and_monitors_choose_pods(case: str) -> None:
    """Each names labels that a workload's pods have, and ports that its containers name."""
    workloads = list(_workloads(case))
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in workloads]
    ports = {
        port["name"]
        for one in workloads
        for container in one["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
    }
    for one in _objects(case):
        selector = one.get("spec", {}).get("selector", {})
        wanted = {key: value for key, value in selector.get("matchLabels", selector).items() if "pod-name" not in key}
        if wanted:
            assert any(wanted.items() <= each.items() for each in labels), one["metadata"]
        if one["kind"] == "Service":
            named = {port["targetPort"] for port in one["spec"]["ports"]}
            assert {port for port in named if isinstance(port, str)} <= ports
    budgets = {one["metadata"]["name"] for one in _objects(case) if one["kind"] == "PodDisruptionBudget"}
    # A budget for the one registry of an embedded store would keep its machine from being drained.
    assert budgets == ({"pw-relay", "pw-registry"} if case == "load-balancer" else {"pw-relay"})


@pytest.mark.parametrize("case", _CASES)
def test_a_container_is_left_little(case: str) -> None:
    """No capability but that for port 443 of the host, a root that it cannot write to, no token of Kubernetes."""
    for one in _workloads(case):
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        security = container["securityContext"]
        on_host = pod.get("hostNetwork", False)
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]} | ({"add": ["NET_BIND_SERVICE"]} if on_host else {})
        assert pod["securityContext"].get("runAsNonRoot", False) is not on_host
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert container["image"].rpartition("/")[2].startswith(f"portway-{container['name']}:")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("relay.kind=Deployment", "kind"),
        ("region=Frankfurt", "region"),
        ("relay.proxyProtocolFrom={10.0.0.1}", "proxyProtocolFrom"),
        ("relay.lameduck=5", "lameduck"),
        ("registry.store=etcd3", "store"),
        ("relay.settings.max-sessions=5", "max-sessions"),
        ("relay.advertise=$(reboot):443", "advertise"),
    ],
)
def test_wrong_values_are_refused(value: str, says: str) -> None:
    """With the value's name, before anything is rendered."""
    done = _helm("template", "pw", str(_CHART), "--kube-version=1.33", "--set", value)
    assert done.returncode != 0
    assert says in done.stderr


def test_values_that_do_not_go_together_are_refused() -> None:
    """They say what to do."""
    many = _helm("template", "pw", str(_CHART), "--kube-version=1.33", "--set=relay.kind=StatefulSet")
    assert "choose a shorter range" in many.stderr
    nowhere = _helm("template", "pw", str(_CHART), "--kube-version=1.33", "--set=registry.enabled=false")
    assert "name the registries' ports for nodes" in nowhere.stderr
    bare = _helm("template", "pw", str(_CHART), "--kube-version=1.33", "--set=registry.tlsSecret=")
    assert "the registry needs a certificate" in bare.stderr


def _leaves(schema: Any, values: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    for key, value in values.items():
        known = schema.get("properties", {}).get(key)
        if known and known.get("properties"):
            yield from _leaves(known, value, f"{path}{key}.")
        else:
            yield f"{path}{key}", known is not None


def test_every_value_has_a_comment_and_a_schema() -> None:
    """And every value of the schema has a default."""
    schema = json.loads((_CHART / "values.schema.json").read_text())
    del schema["properties"]["global"]  # Helm's own
    leaves = dict(_leaves(schema, _VALUES))
    assert [path for path, known in leaves.items() if not known] == []

    def missing(part: Any, values: Any) -> Iterator[str]:
        for key, one in part.get("properties", {}).items():
            if key not in values:
                yield key
            else:
                yield from missing(one, values[key])

    assert list(missing(schema, _VALUES)) == []
    lines = (_CHART / "values.yaml").read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r" *\w+: .", line) and not re.match(r" *#", before)
    ]
    assert bare == []


def test_the_chart_has_the_version_of_the_release() -> None:
    """Its images are tagged with it."""
    chart = yaml.safe_load((_CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version("portway")

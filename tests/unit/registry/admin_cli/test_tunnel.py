"""`portway-admin tunnel`."""

import re

import pytest
from portway_registry.admin_cli import output
from portway_registry.admin_cli import tunnel as command
from portway_testkit.clusters.admin_stage import Stage


def test_tunnels_are_listed_for_people(stage: Stage) -> None:
    """A line each, with what an operator is asked about: whose it is, where, and which options it has."""
    tunnel = stage.tunnel("fra-1", "bob", epoch=3, h2_enabled=True, unencrypted_port=20_007)
    stage.node("fra-1", tunnel)
    lines = stage.say("tunnel", "list").stdout.splitlines()
    assert lines[1].split() == ["LABEL", "NODE", "TENANT", "TOKEN", "EPOCH", "OPTIONS", "HOST", "OPENED"]
    token = stage.token_ids["bob"]
    assert lines[3].split()[:8] == [tunnel.label, "fra-1", "bob", token, "3", "h2", "tcp:20007", tunnel.host]


def test_tunnels_are_listed_for_programs(stage: Stage) -> None:
    """The protocol's names; not the claim, with which nobody here has anything to do."""
    tunnel = stage.tunnel("fra-1")
    stage.node("fra-1", tunnel)
    assert stage.ask("tunnel", "list") == {
        "tunnels": [
            {
                "label": tunnel.label,
                "host": tunnel.host,
                "node": "fra-1",
                "region": "fra",
                "epoch": 1,
                "tenant": "demo",
                "token_id": stage.token_ids["demo"],
                "h2_enabled": False,
                "unencrypted_port": None,
                "opened_at_ms": 1,
            }
        ]
    }


def test_at_80_columns_labels_are_whole(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that is cut cannot be shown or searched for; what has no room is named."""
    tunnel = stage.tunnel("fra-1", "a-tenant-with-a-long-name", epoch=3, h2_enabled=True, unencrypted_port=20_007)
    stage.node("fra-1", tunnel)
    monkeypatch.setattr(output, "_room", lambda: 80)
    lines, token = stage.say("tunnel", "list").stdout.splitlines(), stage.token_ids["a-tenant-with-a-long-name"]
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["LABEL", "NODE", "TENANT", "TOKEN", "OPTIONS"]
    assert lines[3].split() == [tunnel.label, "fra-1", "a-tenant-with-a-long-name", token, "h2", "tcp:20007"]
    assert "No room for EPOCH, HOST, OPENED: " in "\n".join(lines)


def test_a_node_and_a_tenant_are_kept_to(stage: Stage) -> None:
    """Both filters, alone and together."""
    alice, bob = (stage.tunnel("fra-1", tenant) for tenant in ("alice", "bob"))
    stage.node("fra-1", alice, bob)
    far = stage.tunnel("lon-1", "alice")
    stage.node("lon-1", far)

    def labels(*filters: str) -> set[str]:
        return {tunnel["label"] for tunnel in stage.ask("tunnel", "list", *filters)["tunnels"]}

    assert labels() == {alice.label, bob.label, far.label}
    assert labels("--node", "fra-1") == {alice.label, bob.label}
    assert labels("--tenant", "alice") == {alice.label, far.label}
    assert labels("--node", "fra-1", "--tenant", "alice") == {alice.label}
    assert labels("--node", "none") == set()
    assert stage.say("tunnel", "list", "--tenant", "none").stdout == "No such tunnel is open.\n"


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_every_page_is_fetched(stage: Stage, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """However many fit on one: each tunnel once, in the order of labels."""
    monkeypatch.setattr(command, "_PAGE", page)
    tunnels = [stage.tunnel("fra-1") for _ in range(6)]
    stage.node("fra-1", *tunnels)
    found = [tunnel["label"] for tunnel in stage.ask("tunnel", "list")["tunnels"]]
    assert found == sorted(tunnel.label for tunnel in tunnels)


def test_one_tunnel_is_shown_with_its_home(stage: Stage) -> None:
    """The node that the client is connected to, too."""
    tunnel = stage.tunnel("fra-1", unencrypted_port=20_001)
    stage.node("fra-1", tunnel)
    text = stage.say("tunnel", "show", tunnel.label).stdout
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in text.splitlines())
    assert (lines["label"], lines["home node"], lines["raw port"]) == (tunnel.label, "fra-1 (ready)", "20001")
    told = stage.ask("tunnel", "show", tunnel.label)
    assert (told["tunnel"]["label"], told["node"]["name"]) == (tunnel.label, "fra-1")


@pytest.mark.parametrize(
    "named",
    [
        "{host}",
        "{host}.",
        "{host}:8443",
        "https://{host}",
        "https://{host}:8443/items/?page=1#top",
        "HTTP://user:word@{host}/a@b",
        "wss://{host}?x",
        " {host}\n",
        "{label}.lon.tunnels.example",
        "{upper}",
    ],
)
def test_a_tunnel_is_shown_by_its_host_or_a_url(stage: Stage, named: str) -> None:
    """Whatever a person was sent, port, path and region included."""
    tunnel = stage.tunnel("fra-1")
    stage.node("fra-1", tunnel)
    text = named.format(host=tunnel.host, label=tunnel.label, upper=tunnel.host.upper())
    assert stage.ask("tunnel", "show", text)["tunnel"]["label"] == tunnel.label


def test_a_tcp_address_names_no_tunnel(stage: Stage) -> None:
    """Its host is the region's; the error says where the port is listed."""
    result = stage.say("tunnel", "show", "tcp://fra.tunnels.example:20001")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "look for its port in `portway-admin tunnel list`" in result.stderr


@pytest.mark.parametrize("named", ["", ".", "https://", "https://nothing.fra.tunnels.example/"])
def test_what_names_no_tunnel_is_not_found(stage: Stage, named: str) -> None:
    """As a label that is not open."""
    result = stage.say("tunnel", "show", named)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no tunnel with this label is open" in result.stderr


def test_a_tunnel_that_is_not_there_is_one(stage: Stage) -> None:
    """Not found, without repeating what was asked for: it may be somebody's secret."""
    result = stage.say("tunnel", "show", "a" * 16)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "aaaa" not in result.stderr

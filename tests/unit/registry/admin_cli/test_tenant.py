"""`portway-admin tenant`."""

import pytest
from portway_testkit.clusters.admin_stage import Stage


def test_tenants_are_listed(stage: Stage) -> None:
    """Those that a client token, a tunnel or a quota names, with what they have; those of admins alone are none."""
    stage.ask("token", "create", "--tenant", "alice")
    revoked = stage.ask("token", "create", "--tenant", "alice")["id"]
    stage.ask("token", "revoke", revoked)
    stage.ask("tenant", "set-quota", "carol", "7")
    stage.node("fra-1", stage.tunnel("fra-1", "bob"))
    stage.ask("token", "revoke", stage.token_ids["bob"])
    assert stage.ask("tenants", "list")["tenants"] == [
        {"name": "alice", "max_tunnels": 100, "is_default": True, "tunnels": 0, "tokens": 1},
        {"name": "bob", "max_tunnels": 100, "is_default": True, "tunnels": 1, "tokens": 0},
        {"name": "carol", "max_tunnels": 7, "is_default": False, "tunnels": 0, "tokens": 0},
    ]
    lines = stage.say("tenant", "list").stdout.splitlines()
    assert lines[1].split() == ["TENANT", "MAX", "TUNNELS", "TUNNELS", "TOKENS"]
    assert [line.split() for line in lines[3:6]] == [
        ["alice", "100", "(default)", "0", "1"],
        ["bob", "100", "(default)", "1", "0"],
        ["carol", "7", "0", "0"],
    ]


def test_a_quota_is_set_and_taken_back(stage: Stage) -> None:
    """Both are answered with what holds now, and in the audit."""
    assert stage.ask("tenant", "set-quota", "demo", "5")["max_tunnels"] == 5
    taken_back = stage.ask("tenant", "set-quota", "demo", "default")
    assert (taken_back["max_tunnels"], taken_back["is_default"]) == (100, True)
    said = stage.say("tenant", "set-quota", "demo", "6").stdout
    assert said == "Tenant demo (no token yet) may have 6 tunnels open at once.\n"
    entries = [(entry["action"], entry["target"]) for entry in stage.ask("audit", "list")["entries"]]
    assert entries[:3] == [
        ("tenant.set-quota", "demo 6"),
        ("tenant.set-quota", "demo default"),
        ("tenant.set-quota", "demo 5"),
    ]


def test_a_lower_quota_ends_the_newest(stage: Stage) -> None:
    """At once, and their node is told the number."""
    tunnels = [stage.tunnel("fra-1") for _ in range(3)]
    node = stage.node("fra-1", tunnels[0])

    async def announce() -> None:
        for tunnel in tunnels[1:]:
            await node.announce(tunnel, of=list(stage.clients.values()))

    async def evicted() -> set[tuple[str, int]]:
        await node.until(lambda: len(node.evicted) == 2)
        heard = [one for message in node.heard for one in message.evictions.evictions]
        return {(one.label, one.max_tunnels) for one in heard}

    stage.run(announce)
    stage.ask("tenant", "set-quota", "demo", "1")
    assert stage.run(evicted) == {(tunnel.label, 1) for tunnel in tunnels[1:]}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("no tenant", "5"), 1), (("demo", "0"), 2), (("demo", "many"), 2), (("demo", "1000001"), 2), (("demo",), 2)],
)
def test_a_quota_that_cannot_be_is_refused(stage: Stage, arguments: tuple[str, ...], code: int) -> None:
    """By the command line what it can know, by the registry the rest."""
    assert stage.say("tenant", "set-quota", *arguments).exit_code == code
    assert stage.ask("tenant", "list")["tenants"] == []

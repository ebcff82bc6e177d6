"""`portway-admin token`."""

import pytest
from portway_registry.access.tokens import parse_token
from portway_registry.services import pages
from portway_testkit.clusters.admin_stage import Stage


def test_a_token_is_printed_alone(stage: Stage) -> None:
    """stdout holds the token and nothing else, so that a shell can keep it; the rest is said on stderr."""
    result = stage.say("token", "create", "--tenant", "demo")
    assert result.exit_code == 0
    token_id = parse_token(result.stdout.removesuffix("\n")).id
    assert f"Token {token_id} of tenant demo" in result.stderr
    assert "cannot be shown again" in result.stderr


def test_a_token_is_made_for_programs(stage: Stage) -> None:
    """The secret once, with all that is known of the token."""
    told = stage.ask(
        *("token", "create", "--tenant", "demo", "--description", "for CI", "--max-tunnels", "5", "--role", "client")
    )
    token_id = parse_token(told.pop("token")).id
    assert told.pop("created_at_ms") > 1_700_000_000_000
    assert told == {
        "id": token_id,
        "tenant": "demo",
        "description": "for CI",
        "role": "client",
        "max_tunnels": 5,
        "revoked_at_ms": None,
    }


def test_a_secret_is_shown_once(stage: Stage) -> None:
    """No list has it."""
    secret = parse_token(stage.ask("token", "create", "--tenant", "demo")["token"]).secret
    for result in (
        stage.say("token", "list", "--all"),
        stage.say("--json", "token", "list"),
        stage.say("audit", "list"),
    ):
        assert secret not in result.stdout


def test_an_admin_s_token_is_one(stage: Stage) -> None:
    """A token of role admin can do what the first one can."""
    token = stage.ask("token", "create", "--tenant", "ops", "--role", "admin")["token"]
    stage.token_file.write_text(token)
    assert stage.say("token", "list").exit_code == 0


def test_tokens_are_listed(stage: Stage) -> None:
    """In the order they were made; the revoked ones only when asked for; one tenant's alone."""
    ids = [stage.ask("token", "create", "--tenant", tenant)["id"] for tenant in ("alice", "bob", "alice")]
    stage.ask("token", "revoke", ids[0])

    def listed(*arguments: str) -> list[str]:
        return [token["id"] for token in stage.ask("token", "list", *arguments)["tokens"]]

    assert listed() == ["admin", ids[1], ids[2]]
    assert listed("--all") == ["admin", *ids]
    assert listed("--tenant", "alice") == [ids[2]]
    lines = stage.say("token", "list", "--all").stdout.splitlines()
    assert lines[1].split() == ["ID", "TENANT", "ROLE", "MAX", "TUNNELS", "CREATED", "REVOKED", "DESCRIPTION"]
    assert [line.split()[:4] for line in lines[3:5]] == [
        ["admin", "admin", "admin", "tenant's"],
        [ids[0], "alice", "client", "tenant's"],
    ]
    assert stage.say("token", "list", "--tenant", "none").stdout == "There is no such token.\n"


def test_a_token_is_revoked_once_and_for_all(stage: Stage) -> None:
    """Revoking it again is no error, and keeps the time of the first."""
    token = stage.ask("token", "create", "--tenant", "demo")
    first = stage.ask("token", "revoke", token["id"])
    assert first["revoked_at_ms"] >= token["created_at_ms"]
    assert stage.ask("token", "revoke", token["id"]) == first
    assert "is revoked since" in stage.say("token", "revoke", token["id"]).stdout


def test_a_token_s_limit_is_within_its_tenant_s(stage: Stage) -> None:
    """A larger one would have no effect: what to do instead is said."""
    refused = stage.say("token", "create", "--tenant", "demo", "--max-tunnels", "101")
    assert "tenant set-quota demo 101" in refused.stderr
    stage.ask("tenant", "set-quota", "demo", "101")
    assert stage.ask("token", "create", "--tenant", "demo", "--max-tunnels", "101")["max_tunnels"] == 101


def test_an_unknown_token_is_one(stage: Stage) -> None:
    """Not found, with where to look."""
    result = stage.say("token", "revoke", "none")
    assert result.exit_code == 1
    assert "portway-admin token list" in result.stderr


def test_the_last_admin_s_token_stays(stage: Stage) -> None:
    """Refused, with what to do first."""
    result = stage.say("token", "revoke", "admin")
    assert result.exit_code == 1
    assert "token create --role admin" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--tenant", "demo", "--role", "root"), 2),
        (("--tenant", "demo", "--max-tunnels", "0"), 2),
        (("--tenant", "demo", "--max-tunnels", "many"), 2),
        (("--tenant", "demo", "--max-tunnels", "101"), 1),
        (("--tenant", "no tenant"), 1),
        (("--tenant", "demo", "--description", "x" * 201), 1),
    ],
)
def test_a_token_that_cannot_be_is_refused(stage: Stage, arguments: tuple[str, ...], code: int) -> None:
    """By the command line what it can know, by the registry the rest; nothing is made."""
    assert stage.say("token", "create", *arguments).exit_code == code
    assert [token["id"] for token in stage.ask("token", "list")["tokens"]] == ["admin"]


def test_lists_have_any_number_of_pages(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens, invitations and nodes are all listed, whatever fits into one message."""
    monkeypatch.setattr(pages, "_LARGEST_PAGE", 100)
    tokens = {stage.ask("token", "create", "--tenant", "demo")["id"] for _ in range(4)}
    assert {one["id"] for one in stage.ask("token", "list", "--tenant", "demo")["tokens"]} == tokens
    invited = [stage.ask("node", "invite", "--region", "fra")["id"] for _ in range(3)]
    assert sorted(one["id"] for one in stage.ask("invitation", "list")["invitations"]) == sorted(invited)
    for name in ("fra-3", "fra-1", "fra-2"):
        stage.node(name)
    assert [one["name"] for one in stage.ask("node", "list")["nodes"]] == ["fra-1", "fra-2", "fra-3"]

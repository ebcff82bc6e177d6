"""`portway-admin audit`."""

import pytest
from portway_registry.admin_cli import audit as command
from portway_testkit.clusters.admin_stage import Stage


def test_nothing_is_said_in_words(stage: Stage) -> None:
    """A cluster in which nobody has changed anything."""
    assert stage.say("audit", "list").stdout == "Nothing has been changed yet.\n"
    assert stage.ask("audit", "list") == {"entries": []}


def test_what_was_changed_is_listed_the_youngest_first(stage: Stage) -> None:
    """Who did what to which token; looking is no change."""
    token = stage.ask("token", "create", "--tenant", "demo")["id"]
    stage.ask("token", "list")
    stage.ask("token", "revoke", token)
    entries = stage.ask("audit", "list")["entries"]
    assert [(one["actor"], one["action"], one["target"]) for one in entries] == [
        ("admin", "token.revoke", token),
        ("admin", "token.create", token),
    ]
    assert len(stage.ask("audit", "list", "--limit", "1")["entries"]) == 1
    lines = stage.say("audit", "list").stdout.splitlines()
    assert lines[1].split() == ["WHEN", "ACTOR", "ACTION", "TARGET"]
    assert lines[3].split()[2:] == ["admin", "token.revoke", token]


@pytest.mark.parametrize("page", [1, 2, 5, 6])
def test_pages_are_followed_up_to_the_limit(stage: Stage, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """However many entries come in one answer; no page is asked for that is not needed."""
    monkeypatch.setattr(command, "_PAGE", page)
    ids = [stage.ask("token", "create", "--tenant", "demo")["id"] for _ in range(5)]
    assert [one["target"] for one in stage.ask("audit", "list")["entries"]] == ids[::-1]
    assert [one["target"] for one in stage.ask("audit", "list", "--limit", "3")["entries"]] == ids[:1:-1]
    assert [one["target"] for one in stage.ask("audit", "list", "--limit", "9999")["entries"]] == ids[::-1]


def test_a_limit_is_a_number_from_one_on(stage: Stage) -> None:
    """Others are usage errors."""
    for limit in ("0", "-1", "x"):
        assert stage.say("audit", "list", "--limit", limit).exit_code == 2

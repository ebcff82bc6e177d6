"""portway-admin front-key: which secrets of PROXY headers there are, and another one."""

from portway_testkit.clusters.admin_stage import Stage
from portway_testkit.waiting import eventually


def test_it_is_listed_and_replaced(stage: Stage) -> None:
    """As a table for people, as a list for programs; in use at once where every registry knows it. The secret itself is
    never shown."""
    eventually(lambda: len(stage.ask("front-keys", "list")["front_keys"]) == 1)
    (first,) = stage.ask("front-key", "list")["front_keys"]
    assert (first["state"], first["accepted_until_ms"], first["unaware_replicas"]) == ("in use", None, [])
    rotated = stage.say("front-key", "rotate").stdout
    (now, before) = stage.ask("front-key", "list")["front_keys"]
    assert rotated == f"Key {now['id']} of PROXY headers is in use.\n"
    assert (before["id"], before["state"]) == (first["id"], "accepted")
    table = stage.say("front-key", "list").stdout.splitlines()
    assert table[3].split()[:3] == [now["id"], "in", "use"]
    entries = [(one["action"], one["target"]) for one in stage.ask("audit", "list")["entries"]]
    assert entries[0] == ("front-key.rotate", now["id"])


def test_what_stands_against_it_is_told_and_may_be_forced(stage: Stage) -> None:
    eventually(lambda: len(stage.ask("front-keys", "list")["front_keys"]) == 1)
    stage.say("front-key", "rotate")
    refused = stage.say("front-key", "rotate")
    assert refused.exit_code == 1
    assert "was replaced a moment ago" in refused.stderr
    assert "--force" in refused.stderr
    forced = stage.ask("front-key", "rotate", "--force")
    assert [one["id"] for one in stage.ask("front-key", "list")["front_keys"]] == [forced["id"]]

"""portway-admin grant-key: which keys there are, the next one, and what stands against retiring one."""

from portway_testkit.clusters.admin_stage import Stage


def test_the_first_key_signs(stage: Stage) -> None:
    """As a table for people, as a list for programs; plural nouns work, too."""
    lines = stage.say("grant-keys", "list").stdout.splitlines()
    assert lines[1].split() == [
        "ID",
        "STATE",
        "MADE",
        "SIGNS",
        "FROM",
        "GRANTS",
        "IN",
        "USE",
        "UNTIL",
        "NOT",
        "KNOWN",
        "TO",
    ]
    assert lines[3].split()[:2] == ["1", "signing"]
    assert "it signs" in lines[3]
    (shown,) = stage.ask("grant-key", "list")["grant_keys"]
    assert shown["made_at_ms"] == shown["signs_from_ms"] > 0
    assert (shown["state"], shown["used_until_ms"]) == ("signing", None)
    assert (shown["unaware_nodes"], shown["unaware_replicas"]) == ([], [])


def test_a_node_that_does_not_know_the_next_key_is_waited_for(stage: Stage) -> None:
    """It is named where people look, and the key may be taken back; nobody lost anything."""
    stage.node("fra-1")
    said = stage.say("grant-key", "rotate").stdout
    assert said.startswith("Grant key 2 is made. It signs when all know it, from ")
    assert said.endswith("Not yet known to: fra-1.\n")
    assert stage.ask("grant-key", "rotate")["unaware_nodes"] == ["fra-1"]
    table = stage.say("grant-key", "list").stdout.splitlines()
    assert table[4].split()[:2] == ["2", "announced"]
    assert table[4].rstrip().endswith("fra-1")
    assert stage.say("grant-key", "retire", "2").stdout == "Grant key 2 is retired. Key 1 signs.\n"
    entries = [(one["action"], one["target"]) for one in stage.ask("audit", "list")["entries"]]
    assert entries[:2] == [("grant-key.retire", "2"), ("grant-key.rotate", "2")]


def test_a_key_in_use_is_not_retired(stage: Stage) -> None:
    """The refusal says when it may be, and what --force would break."""
    refused = stage.say("grant-key", "retire", "1")
    assert refused.exit_code == 1
    assert "`portway-admin grant-key rotate`" in refused.stderr
    assert stage.say("grant-key", "rotate").stdout == "Grant key 2 is made. It signs from now on.\n"
    refused = stage.say("grant-key", "retire", "1")
    (before, _) = stage.ask("grant-key", "list")["grant_keys"]
    assert before["state"] == "verifying"
    assert refused.exit_code == 1
    assert "may be in use until" in refused.stderr
    assert "--force deletes it now: nodes refuse those grants" in refused.stderr
    assert stage.say("grant-key", "retire", "1", "--force").stdout == "Grant key 1 is retired. Key 2 signs.\n"
    assert stage.ask("grant-key", "retire", "2", "--force")["signing_id"] == "3"
    assert [one["id"] for one in stage.ask("grant-key", "list")["grant_keys"]] == ["3"]


def test_a_key_that_nobody_knows_is_told(stage: Stage) -> None:
    """With the command that lists what there is."""
    result = stage.say("grant-key", "retire", "77")
    assert result.exit_code == 1
    assert "portway-admin grant-key list" in result.stderr

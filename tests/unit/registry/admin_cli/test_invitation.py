"""portway-admin invitation: who is invited, and who is not any more."""

from portway_testkit.clusters.admin_stage import Stage


def test_nobody_is_invited_at_first(stage: Stage) -> None:
    """In words for people, as an empty list for programs."""
    assert stage.say("invitation", "list").stdout == "No node is invited.\n"
    assert stage.ask("invitation", "list") == {"invitations": []}


def test_an_invitation_is_taken_back(stage: Stage) -> None:
    """It is shown among all from then on, and a second time changes nothing; so the audit has it, too."""
    made = stage.ask("node", "invite", "--region", "fra", "--name", "fra-7")
    columns = stage.say("invitation", "list").stdout.splitlines()
    assert columns[1].split() == ["ID", "REGION", "NODE", "CREATED", "EXPIRES", "USED", "BY", "USED", "REVOKED"]
    assert columns[3].split()[:3] == [made["id"], "fra", "fra-7"]
    assert stage.say("invitation", "revoke", made["id"]).stdout.startswith(f"Invitation {made['id']} is revoked since ")
    assert stage.ask("invitation", "list") == {"invitations": []}
    (shown,) = stage.ask("invitation", "list", "--all")["invitations"]
    assert shown["revoked_at_ms"] >= shown["created_at_ms"]
    assert stage.ask("invitation", "revoke", made["id"])["revoked_at_ms"] == shown["revoked_at_ms"]
    entries = [(one["action"], one["target"]) for one in stage.ask("audit", "list")["entries"]]
    assert ("node.invite", made["id"]) in entries
    assert ("invitation.revoke", made["id"]) in entries


def test_an_invitation_that_nobody_knows_is_told(stage: Stage) -> None:
    """With the command that lists what there is."""
    result = stage.say("invitation", "revoke", "none")
    assert result.exit_code == 1
    assert "portway-admin invitation list --all" in result.stderr

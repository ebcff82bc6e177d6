"""`portway-admin backup`."""

import re
import time

from portway_testkit.clusters.admin_stage import Stage


def test_a_back_up_by_other_means_is_noted(stage: Stage) -> None:
    """For people and for programs; it is in the audit."""
    told = stage.say("backup", "note", "--by", "etcdctl snapshot")
    assert re.fullmatch(r"Recorded: the store was backed up at \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ\.\n", told.stdout)
    noted = stage.ask("backup", "note")
    assert noted["by"] is None
    assert abs(noted["at_ms"] / 1000 - time.time()) < 10
    actions = [(one["action"], one["target"]) for one in stage.ask("audit", "list")["entries"]]
    assert ("backup.note", "etcdctl snapshot") in actions


def test_what_cannot_be_shown_is_refused(stage: Stage) -> None:
    """The registry's words are printed."""
    refused = stage.say("backup", "note", "--by", "a\x1bb")
    assert refused.exit_code == 1
    assert "printable" in refused.output

"""portway-admin ca: which CAs there are, the next one, and what stands against retiring one."""

from portway_testkit.clusters.admin_stage import Stage


def test_a_cluster_s_own_ca_is_replaced(own: Stage) -> None:
    """Step by step, each of which may be repeated; the list shows what is left to do."""
    lines = own.say("ca", "list").stdout.splitlines()
    assert lines[1].split() == "ID STATE MADE ENDS NOT TRUSTED BY CERTIFICATES OF".split()  # noqa: SIM905
    (old,) = own.ask("ca", "list")["authorities"]
    assert lines[3].split()[:2] == [old["id"], "issuing"]
    assert (old["state"], old["from_files"], old["unaware_nodes"]) == ("issuing", False, [])
    assert old["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    refused = own.say("ca", "retire", old["id"])
    assert refused.exit_code == 1
    assert "`portway-admin ca rotate`" in refused.stderr
    said = own.say("ca", "rotate").stdout
    new, before = own.ask("ca", "list")["authorities"]
    assert (
        said == f"CA {new['id']} issues certificates from now on. `ca list` shows when the one before may be retired.\n"
    )
    assert (before["id"], before["state"]) == (old["id"], "retiring")
    own.until_unused(old["id"])
    assert own.say("ca", "retire", old["id"]).stdout == f"CA {old['id']} is retired.\n"
    assert [one["id"] for one in own.ask("ca", "list")["authorities"]] == [new["id"]]
    entries = [(one["action"], one["target"]) for one in own.ask("audit", "list")["entries"]]
    assert entries[:2] == [("ca.retire", old["id"]), ("ca.rotate", new["id"])]


def test_one_from_files_is_replaced_there(stage: Stage) -> None:
    """The refusal says how, and the list shows who trusts what."""
    stage.node("fra-1")
    refused = stage.say("ca", "rotate")
    assert refused.exit_code == 1
    assert "--cluster-ca" in refused.stderr
    (only,) = stage.ask("ca", "list")["authorities"]
    assert (only["from_files"], only["unaware_nodes"]) == (True, ["fra-1"])
    assert "  fra-1  " in stage.say("ca", "list").stdout.splitlines()[3]


def test_one_that_nobody_knows_is_told(own: Stage) -> None:
    """With the command that lists what there is."""
    result = own.say("ca", "retire", "0123456789abcdef")
    assert result.exit_code == 1
    assert "portway-admin ca list" in result.stderr

"""portway-admin certificate: what operators see and order."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_testkit.clusters.admin_stage import Stage
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.clusters.registry import Pki
from portway_testkit.waiting import eventually

FRA = "fra.tunnels.example"


@pytest.fixture
def stage(pki: Pki, tmp_path: Path, pebble: Pebble) -> Iterator[Stage]:
    config = pebble.config(pki, tmp_path)
    settings = {key: getattr(config, key) for key in ("acme_directory", "acme_ca", "acme_key_file", "domain")}
    stage = Stage(pki, tmp_path, pebble.publisher(), **settings)
    stage.start()
    yield stage
    stage.stop()


def test_an_operator_lists_renews_and_revokes(stage: Stage, pebble: Pebble) -> None:
    """And the audit says who did."""
    assert stage.say("certificate", "list").stdout == "No certificate is needed yet.\n"
    node = stage.node("fra-1")
    eventually(lambda: FRA in node.zones)
    header, _, row = stage.say("certificates", "list").stdout.splitlines()[1:4]
    assert header.split() == ["ZONE", "ISSUER", "ENDS", "RENEWED", "STATE"]
    assert row.split()[0] == FRA
    assert row.split()[-1] == "valid"
    (shown,) = stage.ask("certificate", "list")["certificates"]
    assert shown["zone"] == FRA
    assert shown["names"] == [FRA, f"*.{FRA}"]
    assert shown["directory"] == pebble.directory
    assert shown["renew_at_ms"] < shown["until_ms"]
    assert (shown["failures"], shown["failure"], shown["wanted_at_ms"]) == (0, None, None)
    said = stage.say("certificate", "renew", FRA)
    assert (said.exit_code, said.stderr) == (0, "")
    assert said.stdout.startswith(f"{FRA} has a certificate until 20")
    renewed = stage.ask("certificate", "revoke", FRA, "--reason", "key-compromise")
    assert renewed["obtained_at_ms"] > shown["obtained_at_ms"]
    assert renewed["revoking"] is False
    done = [(one["action"], one["target"]) for one in stage.ask("audit", "list")["entries"]]
    assert done[:2] == [("certificate.revoke", FRA), ("certificate.renew", FRA)]
    assert "Ordered" in stage.say("certificate", "renew", FRA, "--no-wait").stdout


def test_a_failure_is_shown(stage: Stage, pebble: Pebble) -> None:
    """By the command that waits, by the list, and by the list of nodes."""
    pebble.break_dns(f"_acme-challenge.{FRA}")
    try:
        stage.node("fra-1")
        eventually(lambda: stage.ask("certificate", "list")["certificates"][0]["failures"])
        refused = stage.say("certificate", "renew", FRA)
        assert refused.exit_code == 1
        assert f"_acme-challenge.{FRA} was not accepted" in refused.stderr
        assert "it is tried again at 20" in refused.stderr
        assert "failed 2 times" in stage.say("certificate", "list").stdout
        listed = stage.say("node", "list")
        assert "fra-1" in listed.stdout
        assert listed.stderr.startswith(f"portway-admin: the certificate of {FRA} is not obtained: ")
        looked = stage.say("--json", "doctor", "--no-visits", "--resolver", "127.0.0.1:1")
        assert looked.exit_code == 11
        told = {one["kind"]: one for check in json.loads(looked.stdout)["checks"] for one in check["findings"]}
        found = told["zone-not-obtained"]
        assert (found["severity"], found["subject"]) == ("error", FRA)
        assert f"_acme-challenge.{FRA} was not accepted" in found["what"]
        assert f"`portway-admin certificate renew {FRA}`" in found["mend"]
    finally:
        pebble.mend_dns(f"_acme-challenge.{FRA}")


def test_a_zone_that_is_not_known_is_refused(stage: Stage) -> None:
    """With where to look."""
    refused = stage.say("certificate", "renew", "nowhere.tunnels.example")
    assert refused.exit_code == 1
    assert "`portway-admin certificate list`" in refused.stderr

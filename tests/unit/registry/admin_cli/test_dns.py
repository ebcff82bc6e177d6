"""`portway-admin dns`: records, and the zone for other name servers."""

from pathlib import Path

import dns.zone
import pytest
from portway_testkit.clusters.admin_stage import Stage

DOMAIN = "tunnels.example"


@pytest.fixture
def named(stage: Stage) -> Stage:
    """With a node, whose word the domain is."""
    stage.node("fra-1", addresses=["192.0.2.1", "2001:db8::1"], zones=[f"fra.{DOMAIN}"])
    return stage


def refusal(stage: Stage, *arguments: str) -> str:
    """What is said of a command that is refused."""
    result = stage.say("dns", *arguments)
    assert result.exit_code == 1
    return result.stderr


def test_records_are_added_listed_and_removed(named: Stage) -> None:
    added = named.ask("dns", "record", "add", "_psl", "txt", "https://example.com/1; x")
    assert added == {"name": f"_psl.{DOMAIN}", "type": "TXT", "ttl": 300, "data": '"https://example.com/1; x"'}
    said = named.say("dns", "record", "add", "@", "CAA", "0", "issue", "letsencrypt.org", "--ttl", "60").stdout
    assert said == f'Added: {DOMAIN} 60 CAA 0 issue "letsencrypt.org"\n'
    listed = named.ask("dns", "record", "list")["records"]
    assert [(one["name"], one["type"], one["source"]) for one in listed] == [
        (f"_psl.{DOMAIN}", "TXT", "operator"),
        (DOMAIN, "CAA", "operator"),
    ]
    assert "operator" in named.say("dns", "record", "list").stdout
    assert named.ask("dns", "record", "remove", "_psl", "TXT")["removed"] == [added]
    assert named.say("dns", "record", "remove", "@", "CAA", "0", "issue", "letsencrypt.org").stdout.startswith(
        "Removed"
    )
    assert named.ask("dns", "record", "list")["records"] == []
    assert "see `portway-admin dns record list`" in refusal(named, "record", "remove", "_psl", "TXT")
    actions = [entry["action"] for entry in named.ask("audit", "list")["entries"]]
    assert sorted(set(actions) & {"dns.record.add", "dns.record.remove"}) == ["dns.record.add", "dns.record.remove"]


def test_a_record_that_the_zone_cannot_have_is_refused(named: Stage) -> None:
    assert "not the data of a A record" in refusal(named, "record", "add", "x", "A", "y")


def test_the_zone_is_exported(named: Stage, tmp_path: Path) -> None:
    """As a zone file, or as JSON; to standard output or to a file that is replaced as a whole."""
    zone = dns.zone.from_text(named.say("dns", "export", "--name-server", "ns.example.net").stdout, DOMAIN)
    assert [one.address for one in zone.find_rdataset("*.fra", "AAAA")] == ["2001:db8::1"]
    records = named.ask("dns", "export")
    assert records["domain"] == DOMAIN
    assert {"name": f"*.fra.{DOMAIN}", "type": "A", "ttl": 30, "data": "192.0.2.1"} in records["records"]
    output = tmp_path / "zone"
    assert named.say("dns", "export", "--output", str(output)).stdout == ""
    assert output.read_text().startswith(f"$ORIGIN {DOMAIN}.\n")
    assert "cannot write" in refusal(named, "export", "--output", str(tmp_path / "a" / "b"))


def test_without_a_domain_there_is_no_zone(stage: Stage) -> None:
    assert "--domain" in refusal(stage, "export")

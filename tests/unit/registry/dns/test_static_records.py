"""Records of operators: which ones the zone can have, and in which form they are kept."""

import pytest
from portway_proto.v1.types_pb2 import DnsRecord
from portway_registry.dns.board import DnsBoard
from portway_registry.dns.static_records import StaticRecords
from portway_registry.errors import InvalidRequest, NotFound
from portway_registry.state.audit import Audit
from portway_testkit.clusters.views import ViewedStore

DOMAIN = "tun.example.com"


@pytest.fixture
def records(cluster: ViewedStore) -> StaticRecords:
    board = DnsBoard(cluster.views, domain=DOMAIN, registry_name="")
    audit = Audit(cluster.store, lambda: 1)
    return StaticRecords(cluster.store, cluster.views, board, audit, lambda: 7)


async def add(records: StaticRecords, name: str, kind: str, data: str, ttl: int = 0) -> tuple[str, str, int, str]:
    found = await records.add(DnsRecord(name=name, type=kind, data=data, ttl=ttl), by="admin")
    return found.name, found.type, found.ttl, found.data


@pytest.mark.parametrize(
    ("name", "kind", "data", "stored"),
    [
        ("_psl", "txt", '"https://github.com/publicsuffix/list/pull/1"', f"_psl.{DOMAIN}"),
        ("@", "CAA", '0 issue "letsencrypt.org"', DOMAIN),
        (DOMAIN, "CAA", '0 issue "letsencrypt.org"', DOMAIN),
        (f"{DOMAIN.upper()}.", "MX", "10 mail.example.com.", DOMAIN),
        (f"WWW.{DOMAIN}", "AAAA", "2001:db8::1", f"www.{DOMAIN}"),
        ("fra", "TXT", '"x"', f"fra.{DOMAIN}"),
        ("docs", "CNAME", "example.org.", f"docs.{DOMAIN}"),
        ("a.b", "HTTPS", '1 . alpn="h2"', f"a.b.{DOMAIN}"),
    ],
)
async def test_names_are_below_the_domain(
    records: StaticRecords, cluster: ViewedStore, name: str, kind: str, data: str, stored: str
) -> None:
    """Relative or whole; data is read, and kept as DNS tools write it."""
    assert await add(records, name, kind, data) == (stored, kind.upper(), 300, data)
    await cluster.settle()
    (listed,) = records.board.listed()
    assert (listed.record.name, listed.record.data) == (stored, data)
    audited = (await Audit(cluster.store, lambda: 0).page(10))[0]
    assert [(one.actor, one.action) for one in audited] == [("admin", "dns.record.add")]


@pytest.mark.parametrize(
    ("name", "kind", "data", "complaint"),
    [
        ("www.example.org.", "A", "192.0.2.1", "not below"),
        ("x", "A", "192.0.2.256", "not the data"),
        ("x", "NONSENSE", "y", "not a type"),
        ("x", "ANY", "y", "not a type"),
        ("x", "AXFR", "y", "not a type"),
        ("x", "SOA", f"a.{DOMAIN}. b.{DOMAIN}. 1 2 3 4 5", "the registry sets it"),
        ("x", "NS", "ns.example.org.", "name servers"),
        ("@", "DS", "1 8 2 " + "ab" * 32, "unsigned"),
        ("*", "A", "192.0.2.1", "not supported"),
        ("*.x", "A", "192.0.2.1", "not supported"),
        ("@", "CNAME", "example.org.", "alias"),
        ("ns1", "A", "192.0.2.1", "name server"),
        ("x" * 64, "A", "192.0.2.1", "not a DNS name"),
        ("x..y", "A", "192.0.2.1", "not a DNS name"),
        ("x", "TXT", '"' + "x" * 5_000 + '"', "at most"),
    ],
)
async def test_what_the_zone_cannot_have_is_refused(
    records: StaticRecords, name: str, kind: str, data: str, complaint: str
) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        await add(records, name, kind, data)
    assert records.board.listed() == []


async def test_an_alias_is_alone(records: StaticRecords, cluster: ViewedStore) -> None:
    await add(records, "docs", "CNAME", "example.org.")
    with pytest.raises(InvalidRequest, match="alias"):
        await add(records, "docs", "TXT", '"x"')
    await add(records, "docs", "CNAME", "example.org.", ttl=60)
    await add(records, "www", "TXT", '"x"')
    with pytest.raises(InvalidRequest, match="alias"):
        await add(records, "www", "CNAME", "example.org.")


async def test_the_same_record_again_changes_its_ttl(records: StaticRecords) -> None:
    await add(records, "a", "TXT", '"x"')
    await add(records, f"A.{DOMAIN}.", "TXT", "x", ttl=60)
    assert [one.record.ttl for one in records.board.listed()] == [60]
    for ttl in (1, 86_401):
        with pytest.raises(InvalidRequest, match="TTL"):
            await add(records, "b", "TXT", '"x"', ttl=ttl)


async def test_records_are_removed_by_name_and_type(records: StaticRecords, cluster: ViewedStore) -> None:
    """All of them, or the one with this data; never what the registry sets."""
    for data in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        await add(records, "www", "A", data)
    await add(records, "www", "TXT", '"x"')
    assert [one.data for one in await records.remove("www", "a", "192.0.2.2", by="admin")] == ["192.0.2.2"]
    assert len(await records.remove(f"www.{DOMAIN}", "A", "", by="admin")) == 2
    assert [one.record.type for one in records.board.listed()] == ["TXT"]
    with pytest.raises(NotFound, match="dns record list"):
        await records.remove("www", "A", "", by="admin")


async def test_without_a_domain_nothing_can_be_added(cluster: ViewedStore) -> None:
    board = DnsBoard(cluster.views, domain=None, registry_name="")
    records = StaticRecords(cluster.store, cluster.views, board, Audit(cluster.store, lambda: 1), lambda: 7)
    with pytest.raises(InvalidRequest, match="--domain"):
        await add(records, "a", "TXT", '"x"')


async def test_a_long_list_comes_in_parts(records: StaticRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes accept messages of 4 MiB."""
    monkeypatch.setattr("portway_registry.dns.board._LARGEST_PART", 200)
    for number in range(10):
        await add(records, f"n{number}", "TXT", '"' + "x" * 50 + '"')
    parts = records.board.messages()
    assert len(parts) > 3
    assert [part.part for part in parts] == list(range(len(parts)))
    assert [part.more for part in parts] == [True] * (len(parts) - 1) + [False]
    assert {part.version for part in parts} == {parts[0].version}
    assert sum(len(part.records) for part in parts) == 10

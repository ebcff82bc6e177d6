"""Which names there are, and what each has: answers as resolvers expect them."""

from dataclasses import replace

import dns.flags
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from portway_relay.dns.nodes import Health
from portway_testkit.fakes.dns_zone import DOMAIN, FRANKFURT, NODES, Asked, node

LABEL = "abcdefgh12345678"


def outcome(asked: Asked, name: str, kind: str = "A") -> str:
    """In words, as dnspython reads the answer."""
    answer = asked.ask(name, kind)
    if answer.rcode() == dns.rcode.NOERROR and not answer.answer:
        assert [rrset.rdtype for rrset in answer.authority] == [dns.rdatatype.SOA]
        return "NODATA"
    return dns.rcode.to_text(answer.rcode())


@pytest.mark.parametrize("label", [LABEL, LABEL.upper(), "unknown", "x", "*", "_any", "a" * 63, "-"])
def test_all_labels_are_alike(asked: Asked, label: str) -> None:
    """Known or not, well-formed or not: DNS gives no hint which tunnels there are."""
    assert outcome(asked, f"{label}.fra.{DOMAIN}") == "NOERROR"
    assert outcome(asked, f"{label}.fra.{DOMAIN}", "MX") == "NODATA"


@pytest.mark.parametrize("name", ["nothing", f"{LABEL}.nothing", f"a.{LABEL}.fra", "ns2", "_psl"])
def test_other_names_do_not_exist(asked: Asked, name: str) -> None:
    answer = asked.ask(f"{name}.{DOMAIN}")
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert answer.flags & dns.flags.AA
    (soa,) = answer.authority
    assert (soa.name.to_text(), soa.ttl, soa[0].minimum) == (f"{DOMAIN}.", 30, 30)


@pytest.mark.parametrize("name", ["example.com", "other.example", "com", ".", f"not{DOMAIN}", f"x-{DOMAIN}"])
def test_names_outside_the_domain_are_refused(asked: Asked, name: str) -> None:
    """No recursion for anybody, and no word on what belongs to others."""
    answer = asked.ask(name)
    assert answer.rcode() == dns.rcode.REFUSED
    assert not answer.flags & (dns.flags.AA | dns.flags.RA)


def test_one_node_makes_no_region_up() -> None:
    """It says that it holds a certificate for it. A region whose last node has gone goes on by those who hold it: this
    node, or most of all."""

    def found(*held: str) -> str:
        """Of a name in the region `x`, by the first node, when each holds the certificates of these regions."""
        nodes = [
            node(f"{name}-1", 1, FRANKFURT, *zones.split())
            for name, zones in zip(("fra", "iad", "sin"), held, strict=True)
        ]
        return outcome(Asked(nodes), f"{LABEL}.x.{DOMAIN}")

    assert found("fra", "x", "") == "NXDOMAIN"
    assert found("x", "", "") == "NOERROR"
    assert found("", "fra x", "x") == "NOERROR"


def test_the_apex(asked: Asked) -> None:
    assert asked.addresses(DOMAIN) == ["10.0.0.1", "10.0.0.2"]
    assert asked.addresses(DOMAIN, "AAAA") == ["2001:db8::1", "2001:db8::2"]
    (soa,) = asked.ask(DOMAIN, "SOA").answer
    assert (soa[0].mname.to_text(), soa[0].serial) == (f"ns1.{DOMAIN}.", 7)
    assert outcome(asked, DOMAIN, "CAA") == outcome(asked, DOMAIN, "MX") == outcome(asked, DOMAIN, "DS") == "NODATA"


def test_without_a_list_this_node_is_the_name_server(asked: Asked) -> None:
    answer = asked.ask(DOMAIN, "NS")
    assert [one.target.to_text() for one in answer.answer[0]] == [f"ns1.{DOMAIN}."]
    assert {one[0].address for one in answer.additional} == {"10.0.0.1", "2001:db8::1"}
    assert asked.addresses(f"ns1.{DOMAIN}") == ["10.0.0.1"]


def test_listed_name_servers_have_the_addresses_that_are_listed() -> None:
    """They stay when nodes come and go: resolvers keep them for long."""
    asked = Asked(
        NODES,
        ("", "NS", f"ns1.{DOMAIN}."),
        ("", "NS", f"ns2.{DOMAIN}."),
        ("ns1", "A", "192.0.2.1"),
        ("ns2", "A", "192.0.2.2"),
        ("ns2", "AAAA", "2001:db8::2"),
    )
    answer = asked.ask(DOMAIN, "NS")
    assert {one.target.to_text() for one in answer.answer[0]} == {f"ns1.{DOMAIN}.", f"ns2.{DOMAIN}."}
    assert {one[0].address for one in answer.additional} == {"192.0.2.1", "192.0.2.2", "2001:db8::2"}
    assert asked.addresses(f"ns2.{DOMAIN}", "AAAA") == ["2001:db8::2"]
    assert outcome(asked, f"ns1.{DOMAIN}", "AAAA") == "NODATA"


def test_the_registrys_name_leads_to_the_nearest_nodes() -> None:
    asked = Asked(NODES, registry_name=f"registry.eu.{DOMAIN}")
    assert asked.addresses(f"registry.eu.{DOMAIN}", source="198.51.100.53") == ["10.0.0.2", "10.0.0.1"]
    assert outcome(asked, f"eu.{DOMAIN}") == "NODATA"
    assert outcome(Asked(NODES, registry_name="registry.example.com"), f"example.{DOMAIN}") == "NXDOMAIN"


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("", "CAA", '0 issue "ca.example"'),
        ("", "MX", "10 mail.example.com."),
        ("", "TXT", '"v=spf1 -all"'),
        ("_psl", "TXT", '"https://example.com/1"'),
        ("_acme-challenge.fra", "TXT", '"abc_-123"'),
        ("_acme-challenge", "TXT", '"abc"'),
        ("fra", "CAA", '0 issuewild "ca.example"'),
        ("www.deep.er", "A", "192.0.2.80"),
        ("_25._tcp.mail", "TLSA", "3 1 1 " + "ab" * 32),
        ("unknown", "TYPE65280", r"\# 2 abcd"),
    ],
)
def test_records_of_operators(name: str, kind: str, data: str) -> None:
    asked = Asked(NODES, (name, kind, data))
    full = f"{name}.{DOMAIN}" if name else DOMAIN
    (found,) = asked.ask(full, kind).answer
    assert (found.ttl, [one.to_text() for one in found]) == (300, [data])
    assert outcome(asked, full, "SPF") == "NODATA"


def test_records_are_beside_what_a_name_leads_to() -> None:
    """A proof for a certificate authority takes no visitor away; an address of its own is an operator's wish."""
    asked = Asked(NODES, ("_acme-challenge.fra", "TXT", '"x"'), ("fra", "TXT", '"y"'), ("", "A", "192.0.2.80"))
    assert outcome(asked, f"{LABEL}.fra.{DOMAIN}") == "NOERROR"
    assert asked.addresses(f"fra.{DOMAIN}") == ["10.0.0.1"]
    assert asked.addresses(DOMAIN) == ["192.0.2.80"]
    assert outcome(asked, DOMAIN, "AAAA") == "NODATA"


def test_several_records_of_one_name() -> None:
    """Two orders for one name prove it twice at a time: for the name, and for the wildcard below it."""
    asked = Asked(NODES, *(("_acme-challenge.fra", "TXT", f'"{text}"') for text in ("one", "two", "one")))
    (found,) = asked.ask(f"_acme-challenge.fra.{DOMAIN}", "TXT").answer
    assert sorted(one.to_text() for one in found) == ['"one"', '"two"']


def test_names_between_exist_without_records() -> None:
    """A resolver that asks for them first (RFC 9156) would else conclude that nothing is below."""
    asked = Asked(NODES, ("a.b.c", "TXT", '"x"'), ("_acme-challenge.iad", "TXT", '"y"'))
    for name in ("b.c", "c"):
        assert outcome(asked, f"{name}.{DOMAIN}") == outcome(asked, f"{name}.{DOMAIN}", "NS") == "NODATA"
    assert outcome(asked, f"d.c.{DOMAIN}") == "NXDOMAIN"
    assert outcome(asked, f"iad.{DOMAIN}", "NS") == "NODATA"


def test_an_alias_is_followed_inside_the_zone() -> None:
    asked = Asked(
        NODES,
        ("docs", "CNAME", f"www.{DOMAIN}."),
        ("www", "A", "192.0.2.80"),
        ("out", "CNAME", "example.com."),
        ("loop", "CNAME", f"pool.{DOMAIN}."),
        ("pool", "CNAME", f"loop.{DOMAIN}."),
    )
    found = asked.ask(f"docs.{DOMAIN}").answer
    assert [(one.name.to_text(), one.rdtype) for one in found] == [
        (f"docs.{DOMAIN}.", dns.rdatatype.CNAME),
        (f"www.{DOMAIN}.", dns.rdatatype.A),
    ]
    assert [one.rdtype for one in asked.ask(f"out.{DOMAIN}").answer] == [dns.rdatatype.CNAME]
    assert asked.ask(f"loop.{DOMAIN}").rcode() == dns.rcode.NOERROR
    assert [one.rdtype for one in asked.ask(f"out.{DOMAIN}", "CNAME").answer] == [dns.rdatatype.CNAME]


def shape(asked: Asked, name: str, kind: str = "A") -> tuple[str, list[str], list[str]]:
    """An answer's code, and the owners and types of its sections, below the domain."""
    found = asked.ask(f"{name}.{DOMAIN}", kind)

    def short(section: list[dns.rrset.RRset]) -> list[str]:
        kinds = [dns.rdatatype.to_text(one.rdtype) for one in section]
        owners = [one.name.to_text().removesuffix(f".{DOMAIN}.").replace(f"{DOMAIN}.", "@") for one in section]
        return [f"{owner} {kind}" for owner, kind in zip(owners, kinds, strict=True)]

    assert found.flags & dns.flags.AA
    return dns.rcode.to_text(found.rcode()), short(found.answer), short(found.authority)


def test_what_an_alias_leads_to_decides_the_answer() -> None:
    """NODATA and NXDOMAIN at the end of a chain have their SOA and code, so that resolvers keep them (RFC 2308, RFC
    6604). Outside of the zone others answer."""
    asked = Asked(
        NODES,
        ("docs", "CNAME", f"www.{DOMAIN}."),
        ("www", "A", "192.0.2.80"),
        ("gone", "CNAME", f"nothing.{DOMAIN}."),
        ("long", "CNAME", f"gone.{DOMAIN}."),
        ("between", "CNAME", f"deep.{DOMAIN}."),
        ("er.deep", "A", "192.0.2.81"),
        ("out", "CNAME", "example.com."),
        ("through", "CNAME", f"out.{DOMAIN}."),
        ("below", "CNAME", f"a.{LABEL}.fra.{DOMAIN}."),
    )
    soa = ["@ SOA"]
    assert shape(asked, "docs") == ("NOERROR", ["docs CNAME", "www A"], [])
    assert shape(asked, "docs", "AAAA") == ("NOERROR", ["docs CNAME"], soa)
    assert shape(asked, "docs", "MX") == ("NOERROR", ["docs CNAME"], soa)
    assert shape(asked, "gone") == ("NXDOMAIN", ["gone CNAME"], soa)
    assert shape(asked, "long", "TXT") == ("NXDOMAIN", ["long CNAME", "gone CNAME"], soa)
    assert shape(asked, "between") == ("NOERROR", ["between CNAME"], soa)
    assert shape(asked, "below") == ("NXDOMAIN", ["below CNAME"], soa)
    assert shape(asked, "out", "MX") == ("NOERROR", ["out CNAME"], [])
    assert shape(asked, "through") == ("NOERROR", ["through CNAME", "out CNAME"], [])
    assert shape(asked, "gone", "CNAME") == ("NOERROR", ["gone CNAME"], [])
    assert shape(asked, "www", "CNAME") == ("NOERROR", [], soa)


def test_an_alias_of_a_name_of_nodes_has_their_addresses() -> None:
    """By where the asker is, as that name has."""
    asked = Asked(
        NODES,
        ("mine", "CNAME", f"{LABEL}.fra.{DOMAIN}."),
        ("raw", "CNAME", f"fra.{DOMAIN}."),
        ("entrance", "CNAME", f"{DOMAIN}."),
        ("old", "CNAME", f"mine.{DOMAIN}."),
    )
    assert shape(asked, "mine") == ("NOERROR", ["mine CNAME", f"{LABEL}.fra A"], [])
    assert shape(asked, "old", "AAAA") == ("NOERROR", ["old CNAME", "mine CNAME", f"{LABEL}.fra AAAA"], [])
    assert shape(asked, "raw") == ("NOERROR", ["raw CNAME", "fra A"], [])
    assert shape(asked, "entrance") == ("NOERROR", ["entrance CNAME", "@ A"], [])
    assert shape(asked, "entrance", "NS")[1] == ["entrance CNAME", "@ NS"]
    assert shape(asked, "mine", "MX") == ("NOERROR", ["mine CNAME"], ["@ SOA"])
    for source in ("192.0.2.53", "198.51.100.53"):
        at = asked.ask(f"mine.{DOMAIN}", source=source).answer[-1]
        assert [one.address for one in at] == asked.addresses(f"{LABEL}.fra.{DOMAIN}", source=source)
    only_ipv4 = Asked([replace(NODES[0], ipv6=())], ("mine", "CNAME", f"{LABEL}.fra.{DOMAIN}."))
    assert shape(only_ipv4, "mine", "AAAA") == ("NOERROR", ["mine CNAME"], ["@ SOA"])


@pytest.mark.parametrize(
    "leads_to", [f"fra.{DOMAIN}.", f"{LABEL}.fra.{DOMAIN}.", f"alias.{DOMAIN}.", f"nothing.{DOMAIN}."]
)
@pytest.mark.parametrize("kind", ["NS", "SOA", "MX", "TXT", "HTTPS", "ANY"])
def test_an_alias_of_a_name_of_nodes_is_answered_for_every_type(leads_to: str, kind: str) -> None:
    """Whoever asks chooses the type."""
    asked = Asked(NODES, ("alias", "CNAME", leads_to))
    exists = not leads_to.startswith("nothing") or kind == "ANY"
    assert asked.ask(f"alias.{DOMAIN}", kind).rcode() == (dns.rcode.NOERROR if exists else dns.rcode.NXDOMAIN)


def test_a_region_without_nodes_stays_while_others_serve_it() -> None:
    """Its tunnels have moved, and their URLs with them."""
    asked = Asked([node("fra-1", 1, FRANKFURT, "fra", "iad")])
    assert asked.addresses(f"{LABEL}.iad.{DOMAIN}") == ["10.0.0.1"]
    assert outcome(asked, f"iad.{DOMAIN}") == "NODATA"


def test_a_record_that_cannot_be_read_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    asked = Asked(NODES, ("a", "A", "not an address"), ("b", "NONSENSE", "x"), ("c", "A", "192.0.2.1"))
    assert asked.addresses(f"c.{DOMAIN}") == ["192.0.2.1"]
    assert "left out" in caplog.text


def test_a_cluster_without_a_fit_node_still_answers() -> None:
    asked = Asked([node("fra-1", 1, FRANKFURT, "fra", health=Health.DRAINING)])
    assert asked.addresses(f"{LABEL}.fra.{DOMAIN}") == asked.addresses(DOMAIN) == ["10.0.0.1"]

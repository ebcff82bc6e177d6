"""Which nodes a name leads to: the nearest, in turns, and only those that are fit."""

import dns.edns
import pytest
from portway_geo.position import Position
from portway_relay.dns.nodes import DnsNode, Health
from portway_testkit.fakes.dns_zone import ASHBURN, DOMAIN, FRANKFURT, NODES, SINGAPORE, Asked, node

NAME = f"abcdefgh12345678.fra.{DOMAIN}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("192.0.2.53", ["10.0.0.1", "10.0.0.2"]),
        ("198.51.100.53", ["10.0.0.2", "10.0.0.1"]),
        ("203.0.113.0", ["10.0.0.3", "10.0.0.1"]),
    ],
)
def test_the_two_nearest_to_the_resolver(asked: Asked, source: str, expected: list[str]) -> None:
    assert asked.addresses(NAME, source=source) == expected


def test_the_askers_network_counts_before_its_resolver(asked: Asked) -> None:
    """A public resolver is often on another continent. The answer says that it holds for this network alone."""
    option = dns.edns.ECSOption("198.51.100.53", 32)
    answer = asked.ask(NAME, use_edns=0, options=[option])
    assert [one.address for one in answer.answer[0]] == ["10.0.0.2", "10.0.0.1"]
    (returned,) = answer.options
    assert isinstance(returned, dns.edns.ECSOption)
    assert (returned.address, returned.srclen, returned.scopelen) == ("198.51.100.53", 32, 32)


@pytest.mark.parametrize(
    "option",
    [
        dns.edns.ECSOption("0.0.0.0", 0),  # it wants no answer by place
        dns.edns.ECSOption("10.1.2.0", 24),  # nobody knows where that is
        dns.edns.ECSOption("2001:db8:ffff::", 48),
    ],
)
def test_a_network_of_unknown_place_is_its_resolver(asked: Asked, option: dns.edns.ECSOption) -> None:
    answer = asked.ask(NAME, source="198.51.100.53", use_edns=0, options=[option])
    assert [one.address for one in answer.answer[0]] == ["10.0.0.2", "10.0.0.1"]
    assert answer.rcode() == 0


def test_an_answer_that_holds_everywhere_says_so(asked: Asked) -> None:
    """A resolver keeps it once and not for each network."""
    for name, kind in ((DOMAIN, "SOA"), (f"nothing.{DOMAIN}", "A"), (NAME, "TXT")):
        answer = asked.ask(name, kind, use_edns=0, options=[dns.edns.ECSOption("198.51.100.0", 24)])
        (returned,) = answer.options
        assert isinstance(returned, dns.edns.ECSOption)
        assert (returned.srclen, returned.scopelen) == (24, 0)


def test_a_resolver_of_unknown_place_counts_as_near(asked: Asked) -> None:
    """Resolvers ask the name server that answers them fastest."""
    assert asked.addresses(NAME, source="127.0.0.1") == ["10.0.0.1", "10.0.0.2"]


def test_only_nodes_with_the_regions_certificate(asked: Asked) -> None:
    """Another one would show a visitor a wrong certificate."""
    assert asked.addresses(f"x.iad.{DOMAIN}", source="203.0.113.0") == ["10.0.0.1", "10.0.0.2"]
    assert asked.addresses(f"x.sin.{DOMAIN}") == ["10.0.0.3"]


def test_both_families(asked: Asked) -> None:
    assert asked.addresses(NAME, "AAAA") == ["2001:db8::1", "2001:db8::2"]


def test_a_node_without_a_family_is_not_in_its_answers() -> None:
    plain = node("fra-1", 1, FRANKFURT, "fra")
    only_four = type(plain)("fra-2", "fra", Health.READY, plain.zones, (b"\x0a\0\0\x09",), (), FRANKFURT)
    asked = Asked([only_four, plain])
    assert asked.addresses(NAME, "AAAA") == ["2001:db8::1"]
    assert sorted(asked.addresses(NAME)) == ["10.0.0.1", "10.0.0.9"]
    none = Asked([only_four]).ask(NAME, "AAAA")
    assert (none.rcode(), none.answer, len(none.authority)) == (0, [], 1)


@pytest.mark.parametrize("health", [Health.CORDONED, Health.DRAINING, Health.LOST])
def test_a_node_that_is_not_fit_is_left_out(health: Health) -> None:
    asked = Asked([node("fra-1", 1, FRANKFURT, "fra", health=health), *NODES[1:]])
    assert asked.addresses(NAME) == ["10.0.0.2", "10.0.0.3"]
    assert asked.addresses(DOMAIN) == ["10.0.0.2", "10.0.0.3"]


def test_where_no_node_is_fit_the_least_unfit_are_named() -> None:
    """A wrong guess costs a visitor what no answer costs all of them."""
    unfit = [
        node("fra-1", 1, FRANKFURT, "fra", health=Health.LOST),
        node("fra-2", 2, FRANKFURT, "fra", health=Health.DRAINING),
        node("iad-1", 3, ASHBURN, "fra", health=Health.CORDONED),
    ]
    assert Asked(unfit).addresses(NAME) == ["10.0.0.3"]
    assert Asked(unfit[:2]).addresses(NAME) == ["10.0.0.2"]
    assert Asked(unfit[:1]).addresses(NAME) == ["10.0.0.1"]


def test_nodes_of_one_place_take_turns() -> None:
    """Else the first two by their names would get all visitors around."""
    here = [node(f"fra-{number}", number, FRANKFURT, "fra") for number in range(1, 6)]
    asked = Asked([*here, node("sin-1", 9, SINGAPORE, "fra")])
    answers = [asked.addresses(NAME) for _ in range(10)]
    assert all(len(set(answer)) == 3 and answer[2] == "10.0.0.9" for answer in answers)
    counted = [sum(f"10.0.0.{number}" in answer for answer in answers) for number in range(1, 6)]
    assert counted == [4] * 5


def near_and_far(
    *nodes: DnsNode, source: str = "192.0.2.53", turns: int = 1, other_region: bool = True
) -> list[list[str]]:
    """The answers of some turns."""
    asked = Asked(nodes, other_region=other_region)
    return [asked.addresses(NAME, source=source) for _ in range(turns)]


def test_where_both_are_of_one_region_a_third_is_of_another() -> None:
    """The nearest that serves, last: whoever finds the first two silent tries it. Else nothing is added."""
    fra = [node(f"fra-{number}", number, FRANKFURT, "fra") for number in (1, 2)]
    iad, sin = node("iad-1", 3, ASHBURN, "fra"), node("sin-1", 4, SINGAPORE, "fra")
    assert near_and_far(*fra, sin, iad) == [["10.0.0.1", "10.0.0.2", "10.0.0.3"]]
    assert near_and_far(*fra, sin, iad, source="203.0.113.0") == [["10.0.0.4", "10.0.0.1"]]
    assert near_and_far(fra[0], sin, iad) == [["10.0.0.1", "10.0.0.3"]]
    assert near_and_far(*fra) == [["10.0.0.1", "10.0.0.2"]]
    assert near_and_far(*fra, node("iad-1", 3, ASHBURN), sin) == [["10.0.0.1", "10.0.0.2", "10.0.0.4"]]
    assert near_and_far(*fra, node("iad-1", 3, ASHBURN, "fra", health=Health.LOST)) == [["10.0.0.1", "10.0.0.2"]]
    assert near_and_far(*fra, sin, iad, other_region=False) == [["10.0.0.1", "10.0.0.2"]]
    assert Asked([*fra, iad]).addresses(DOMAIN) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert Asked([*fra, iad]).addresses(f"fra.{DOMAIN}") == ["10.0.0.1", "10.0.0.2"]


def test_the_third_takes_turns_and_may_be_in_the_same_place() -> None:
    """Regions are the operator's: two of them may be in one city."""
    fra = [node(f"fra-{number}", number, FRANKFURT, "fra") for number in (1, 2)]
    far = [node(f"iad-{number}", number, ASHBURN, "fra") for number in (3, 4)]
    assert {answer[2] for answer in near_and_far(*fra, *far, turns=4)} == {"10.0.0.3", "10.0.0.4"}
    beside = node("ams-1", 9, FRANKFURT, "fra")
    for answer in near_and_far(*fra, beside, *far, turns=6):
        assert "10.0.0.9" in answer
        assert not {"10.0.0.3", "10.0.0.4"} & set(answer)
    for answer in near_and_far(*fra, beside, *far, turns=6, other_region=False):
        assert len(answer) == 2


def test_the_second_nearest_place_takes_turns_too() -> None:
    nodes = [node("fra-1", 1, FRANKFURT, "fra"), *(node(f"iad-{n}", n, ASHBURN, "fra") for n in (2, 3, 4))]
    answers = [Asked.addresses(asked, NAME) for asked in [Asked(nodes)] for _ in range(3)]
    assert [answer[0] for answer in answers] == ["10.0.0.1"] * 3
    assert {answer[1] for answer in answers} == {"10.0.0.2", "10.0.0.3", "10.0.0.4"}


def test_nodes_without_a_position_come_last_and_the_regions_own_first_among_them() -> None:
    unplaced = [node("iad-1", 1, None, "fra"), node("fra-1", 2, None, "fra"), node("sin-1", 3, SINGAPORE, "fra")]
    assert Asked(unplaced).addresses(NAME, source="203.0.113.0") == ["10.0.0.3", "10.0.0.2"]
    assert Asked(unplaced[:2]).addresses(NAME) == ["10.0.0.2", "10.0.0.1"]


def test_one_node_with_several_addresses_names_two_of_them() -> None:
    many = node("fra-1", 1, FRANKFURT, "fra")
    many = type(many)("fra-1", "fra", Health.READY, many.zones, tuple(bytes([10, 0, 0, n]) for n in (1, 2, 3)), ())
    assert sorted(Asked([many]).addresses(NAME)) == ["10.0.0.1", "10.0.0.2"]


def test_the_raw_host_of_a_region_is_its_nodes() -> None:
    """Raw TCP ports are at every node of the region, and nowhere else."""
    nodes = [*(node(f"fra-{n}", n, FRANKFURT, "fra", "iad") for n in range(1, 12)), NODES[1]]
    found = Asked(nodes).addresses(f"fra.{DOMAIN}")
    assert len(set(found)) == 8
    assert "10.0.0.2" not in Asked(NODES).addresses(f"fra.{DOMAIN}")
    assert Asked(nodes).addresses(f"iad.{DOMAIN}") == ["10.0.0.2"]


def test_prepared_answers_have_a_number() -> None:
    """Whoever names other networks each time fills no memory."""
    places = {f"10.{number // 250}.{number % 250}.0": Position(number / 100, 0.0) for number in range(3_000)}
    asked = Asked()
    asked.answers._locate = places.get
    for source in places:
        asked.addresses(NAME, source=source)
    assert asked.answers.prepared == 2_048
    assert asked.addresses(NAME, source="10.0.0.0")

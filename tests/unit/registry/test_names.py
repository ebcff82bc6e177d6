"""The forms of names that people choose."""

from collections.abc import Callable

import pytest
from portway_registry.names import check_domain, check_host, check_node, check_region, check_tenant


@pytest.mark.parametrize("check", [check_node, check_region])
@pytest.mark.parametrize("name", ["a", "fra", "fra-1", "9", "a" * 63])
def test_dns_labels_are_names(check: Callable[[str], str], name: str) -> None:
    """A DNS label names a node or a region."""
    assert check(name) == name


@pytest.mark.parametrize("check", [check_node, check_region])
@pytest.mark.parametrize("name", ["", "A", "a.b", "-a", "a-", "a_b", "a b", "é", "a" * 64, "a\n", "*"])
def test_anything_else_is_refused_with_the_rule(check: Callable[[str], str], name: str) -> None:
    """What could not be a part of a host name is refused, and the rule is said."""
    with pytest.raises(ValueError, match="lower-case letters"):
        check(name)


@pytest.mark.parametrize(
    ("domain", "read"), [("tunnels.example.com", "tunnels.example.com"), ("Tunnels.EXAMPLE", "tunnels.example")]
)
def test_a_domain_is_read_in_lower_case(domain: str, read: str) -> None:
    """Domains are compared in lower case."""
    assert check_domain(domain) == read


@pytest.mark.parametrize("domain", ["", ".", "example.com.", ".example.com", "a..b", "a/b", "x." * 120 + "x"])
def test_no_domain_is_refused(domain: str) -> None:
    """An empty part, a last dot and overlong names are refused."""
    with pytest.raises(ValueError, match="not a domain"):
        check_domain(domain)


@pytest.mark.parametrize(
    ("host", "read"),
    [("db.example", "db.example"), ("192.0.2.7", "192.0.2.7"), ("[2001:DB8::1]", "2001:db8::1"), ("::1", "::1")],
)
def test_a_host_is_a_name_or_an_address(host: str, read: str) -> None:
    """Both forms of a host are taken, IPv6 with or without brackets."""
    assert check_host(host) == read


@pytest.mark.parametrize("host", ["", "a b", "http://a", "1.2.3.4:80", "[::1]:80", "fe80::1%eth0", "fe80::1%\x1b[2J"])
def test_what_cannot_be_dialled_is_no_host(host: str) -> None:
    """A URL or a host with its port is none."""
    with pytest.raises(ValueError, match="neither a DNS name nor an IP address"):
        check_host(host)


@pytest.mark.parametrize("name", ["demo", "Team.A_1@example-b", "9", "a" * 64])
def test_tenants_may_be_mail_addresses(name: str) -> None:
    """Letters, digits and . _ @ - make a tenant's name."""
    assert check_tenant(name) == name


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b", "a\n", "é", "a" * 65])
def test_other_tenants_are_refused(name: str) -> None:
    """What would be hard to read in a log or a path is no tenant."""
    with pytest.raises(ValueError, match="not a tenant name"):
        check_tenant(name)

"""Which addresses may be dialled on another party's word, and what it may learn of it."""

import pytest
from portway_runtime.address_scopes import (
    NOT_DIALLED,
    NOT_THIS_NODE,
    UNREACHABLE,
    Scope,
    allowed_addresses,
    expected_scopes,
    failure_of,
    is_loopback,
    outcome_of,
    scope_of,
)
from portway_runtime.errors import AddressNotAllowed
from portway_runtime.names import Names


@pytest.mark.parametrize(
    ("scope", "addresses"),
    [
        (Scope.GLOBAL, ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8"]),
        (Scope.PRIVATE, ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1", "198.18.0.1", "fd00::1"]),
        (
            Scope.PRIVATE,
            ["224.0.0.1", "ff02::1", "255.255.255.255", "64:ff9b::a00:1", "::ffff:10.0.0.1", "2002:a00:1::"],
        ),
        (Scope.LINK_LOCAL, ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254"]),
        (Scope.LOOPBACK, ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "0.0.0.0", "::"]),
    ],
)
def test_the_scope_of_an_address(scope: Scope, addresses: list[str]) -> None:
    """Whatever form it has: an IPv4 address inside an IPv6 one is where a connection goes."""
    assert {address: scope_of(address) for address in addresses} == dict.fromkeys(addresses, scope)


@pytest.mark.parametrize(
    ("hosts", "scopes"),
    [
        (["::", "0.0.0.0", "", "registry.example.com"], {Scope.GLOBAL}),
        (["127.0.0.1", "::"], {Scope.GLOBAL, Scope.LOOPBACK}),
        (["localhost"], {Scope.GLOBAL, Scope.LOOPBACK}),
        (["10.0.0.1", "8.8.8.8"], {Scope.GLOBAL, Scope.PRIVATE}),
    ],
)
def test_a_process_expects_others_where_it_is_itself(hosts: list[str], scopes: set[Scope]) -> None:
    """Every address and a name say nothing: on a public machine they would allow what is private to it."""
    assert expected_scopes(hosts) == scopes


async def test_only_what_is_allowed_is_dialled() -> None:
    """Addresses as they are, a name by what it leads to."""
    assert await allowed_addresses(Names(), "8.8.8.8", {Scope.GLOBAL}) == ["8.8.8.8"]
    assert "127.0.0.1" in await allowed_addresses(Names(), "localhost", {Scope.LOOPBACK})
    with pytest.raises(AddressNotAllowed, match=r"10\.0\.0\.1: addresses that are not global") as raised:
        await allowed_addresses(Names(), "10.0.0.1", {Scope.GLOBAL, Scope.LOOPBACK})
    assert outcome_of(failure_of(raised.value)) == NOT_DIALLED


async def test_what_a_name_leads_to_is_not_told() -> None:
    """Otherwise a node could have the names of a private network looked up."""
    with pytest.raises(AddressNotAllowed, match=r"localhost leads to .*127\.0\.0\.1") as raised:
        await allowed_addresses(Names(), "localhost", {Scope.GLOBAL})
    assert outcome_of(failure_of(raised.value)) == UNREACHABLE


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        (NOT_THIS_NODE, NOT_THIS_NODE),
        (f"{NOT_THIS_NODE}: certificate of db.internal", NOT_THIS_NODE),
        (f"{UNREACHABLE}: Connection refused", UNREACHABLE),
        ("Connection refused", UNREACHABLE),
        ("reached: all is well", UNREACHABLE),
        ("", UNREACHABLE),
    ],
)
def test_an_outcome_has_no_details(failure: str, outcome: str) -> None:
    """What another release says of a failure is none of the outcomes, and so is not passed on."""
    assert outcome_of(failure) == outcome


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("LocalHost", True),
        ("registry.localhost", True),
        ("192.0.2.1", False),
        ("0.0.0.0", False),
        ("localhost.example.com", False),
    ],
)
def test_hosts_that_are_this_machine_by_what_is_written(host: str, here: bool) -> None:
    """No name is looked up."""
    assert is_loopback(host) is here

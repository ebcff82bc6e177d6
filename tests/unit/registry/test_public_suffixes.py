"""The registry says when browsers would take the tunnels of all tenants for one site."""

import logging

import pytest
from portway_registry.public_suffixes import SuffixCheck


@pytest.fixture
def check(caplog: pytest.LogCaptureFixture) -> SuffixCheck:
    caplog.set_level(logging.WARNING)
    return SuffixCheck()


def test_a_domain_that_is_not_on_the_list_is_warned_of_once(
    check: SuffixCheck, caplog: pytest.LogCaptureFixture
) -> None:
    """What to do is part of the warning."""
    check.check("tunnels.example.com")
    check.check("tunnels.example.org")
    (line,) = caplog.messages
    assert line.startswith("*.tunnels.example.com is not on the Public Suffix List")
    assert "TXT record _psl.tunnels.example.com" in line
    assert "docs/public-suffix-list.md" in line


# Two of the private section, one of the ICANN section.
@pytest.mark.parametrize("domain", ["compute.amazonaws.com", "aivencloud.com", "sch.uk"])
def test_a_domain_whose_regions_are_suffixes_is_not_warned_of(
    check: SuffixCheck, caplog: pytest.LogCaptureFixture, domain: str
) -> None:
    """A wildcard covers every region."""
    check.check(domain)
    assert caplog.messages == []


def test_a_rule_without_a_wildcard_is_not_enough(check: SuffixCheck, caplog: pytest.LogCaptureFixture) -> None:
    """All tunnels of one region would still be one site."""
    check.check("github.io")
    assert caplog.messages[0].startswith("*.github.io is not on the Public Suffix List")


@pytest.mark.parametrize(
    "domain",
    [
        "localhost",
        "tunnels",
        "a.localhost",
        "t.test",
        "a.b.internal",
        "t.example",
        "t.local",
        "home.arpa",
        "t.home.arpa",
    ],
)
def test_names_that_cannot_be_public_are_not_warned_of(
    check: SuffixCheck, caplog: pytest.LogCaptureFixture, domain: str
) -> None:
    """Those of a laboratory, a demo or a company's own network. They look like public names only at their end."""
    check.check(domain)
    assert caplog.messages == []
    SuffixCheck().check(f"{domain}.example-company.com")
    assert len(caplog.messages) == 1

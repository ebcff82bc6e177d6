"""`no_proxy`: what curl 7.88 reaches without a proxy, and what it does not take for an entry while others do."""

import pytest
from portway_runtime.endpoints import Endpoint, parse_endpoint
from portway_runtime.proxy_exemptions import is_exempt


@pytest.mark.parametrize(
    ("exempt", "exempted", "not_exempted"),
    [
        ("*", ["a.test", "192.0.2.1", "[2001:db8::1]"], []),
        ("example.test", ["example.test", "a.example.test", "EXAMPLE.Test", "example.test."], ["notexample.test"]),
        (".example.test", ["example.test", "a.b.example.test"], ["notexample.test", "example.test.org"]),
        ("example.test.", ["example.test"], ["test"]),
        ("EXAMPLE.test", ["example.test"], []),
        ("a.test b.test,c.test , d.test", ["a.test", "b.test", "c.test", "d.test"], ["e.test"]),
        ("192.0.2.1", ["192.0.2.1"], ["192.0.2.11"]),
        ("10.0.0.0/8", ["10.9.9.9"], ["11.0.0.1", "10.example.test"]),
        ("192.0.2.128/25", ["192.0.2.200"], ["192.0.2.127"]),
        ("192.0.2.7/32", ["192.0.2.7"], ["192.0.2.6"]),
        ("0.0.0.0/0", ["192.0.2.7"], ["[2001:db8::1]", "a.test"]),
        ("2001:db8::1", ["[2001:db8::1]", "[2001:DB8:0::1]"], ["[2001:db8::2]"]),
        ("", [], ["a.test", "192.0.2.1"]),
        (" , ,", [], ["a.test"]),
        (".", [], ["a.test"]),
        ("2.1", [], ["192.0.2.1"]),
        ("10.0.0.0/", [], ["10.0.0.0"]),
        ("10.0.0.0/99", [], ["10.0.0.0"]),
        ("10.0.0.0/-1", [], ["10.0.0.0"]),
    ],
)
def test_the_rules_of_curl(exempt: str, exempted: list[str], not_exempted: list[str]) -> None:
    assert [host for host in exempted if not is_exempt(exempt, parse_endpoint(f"{host}:443"))] == []
    assert [host for host in not_exempted if is_exempt(exempt, parse_endpoint(f"{host}:443"))] == []


@pytest.mark.parametrize(
    ("exempt", "exempted", "not_exempted"),
    [
        ("a.test,*", ["b.test"], []),
        ("*.example.test", ["a.example.test"], ["notexample.test"]),
        ("example.test:7400", ["example.test:7400", "a.example.test:7400"], ["example.test:443"]),
        ("192.0.2.1:7400", ["192.0.2.1:7400"], ["192.0.2.1:443"]),
        ("[2001:db8::1]", ["[2001:db8::1]:443"], ["[2001:db8::2]:443"]),
        ("[2001:db8::1]:7400", ["[2001:db8::1]:7400"], ["[2001:db8::1]:443"]),
        ("2001:db8::/32", ["[2001:db8:1::1]:443"], ["[2001:db9::1]:443", "10.0.0.1:443"]),
        ("[2001:db8::]/32", ["[2001:db8:1::1]:443"], ["[2001:db9::1]:443"]),
    ],
)
def test_what_others_know_beside(exempt: str, exempted: list[str], not_exempted: list[str]) -> None:
    """Go, Python's requests and others; curl takes them for names that nobody has."""

    def endpoint(text: str) -> Endpoint:
        return parse_endpoint(text, default_port=443)

    assert [text for text in exempted if not is_exempt(exempt, endpoint(text))] == []
    assert [text for text in not_exempted if is_exempt(exempt, endpoint(text))] == []

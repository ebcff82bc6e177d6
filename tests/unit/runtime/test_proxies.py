"""Which proxy a connection goes through, by variables and by name."""

import pytest
from portway_runtime.endpoints import Endpoint
from portway_runtime.errors import SettingsError
from portway_runtime.proxies import NO_PROXIES, Proxy, parse_proxy, proxies_of

REGISTRY = Endpoint("registry.example.com", 7400)


def way(variables: dict[str, str], endpoint: Endpoint = REGISTRY) -> str | None:
    """The proxy's host and what names it."""
    found = proxies_of(variables).way_to(endpoint)
    return None if found is None else f"{found.address.host} {found.source}"


def test_the_first_variable_that_says_something_counts() -> None:
    """As for curl with an https:// URL: lower case first, an empty one is none, and `all_proxy` after `https_proxy`."""
    everything = {"https_proxy": "a:1", "HTTPS_PROXY": "b:1", "all_proxy": "c:1", "ALL_PROXY": "d:1"}
    named = []
    while everything:
        found = way(everything)
        assert found is not None
        named.append(found)
        everything[found.split()[1]] = ""
        if not any(everything.values()):
            break
    assert named == ["a https_proxy", "b HTTPS_PROXY", "c all_proxy", "d ALL_PROXY"]
    assert way(everything) is None
    assert way({"http_proxy": "a:1", "grpc_proxy": "a:1"}) is None


@pytest.mark.parametrize(("name", "other"), [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")])
def test_exemptions_are_read_from_either_case(name: str, other: str) -> None:
    proxies = {"https_proxy": "http://a:1", name: "example.com"}
    assert way(proxies) is None
    assert way(proxies, Endpoint("elsewhere.test", 443)) == "a https_proxy"
    assert way(proxies | {other: ""}) is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_this_machine_is_no_exception(host: str) -> None:
    """As for curl: `no_proxy` lists it where it should be one; a proxy that is named for everything has no list."""
    endpoint = Endpoint(host, 7400)
    assert way({"https_proxy": "http://a:1"}, endpoint) == "a https_proxy"
    assert way({"https_proxy": "http://a:1", "no_proxy": "localhost,127.0.0.1,::1"}, endpoint) is None
    named = proxies_of({"no_proxy": "*"}, "http://a:1", "PORTWAY_PROXY").way_to(endpoint)
    assert named == Proxy(Endpoint("a", 1), "PORTWAY_PROXY")


def test_blanks_say_nothing() -> None:
    """Neither alone nor around a value."""
    assert way({"https_proxy": " ", "HTTPS_PROXY": "\t", "all_proxy": " http://c:1 "}) == "c all_proxy"
    assert way({"https_proxy": "http://a:1", "no_proxy": " ", "NO_PROXY": "example.com"}) is None
    assert way({"https_proxy": " "}) is None


@pytest.mark.parametrize("named", ["", " ", "direct", "DIRECT", " Direct "])
def test_a_program_can_have_none(named: str) -> None:
    assert proxies_of({"https_proxy": "http://a:1"}, named) == NO_PROXIES
    assert NO_PROXIES.way_to(REGISTRY) is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://proxy.test:3128", Proxy(Endpoint("proxy.test", 3128), "x")),
        ("HTTP://proxy.test:3128/", Proxy(Endpoint("proxy.test", 3128), "x")),
        ("http://proxy.test:3128/?a#b", Proxy(Endpoint("proxy.test", 3128), "x")),
        ("proxy.test:3128", Proxy(Endpoint("proxy.test", 3128), "x")),
        ("http://proxy.test", Proxy(Endpoint("proxy.test", 80), "x")),
        ("https://proxy.test", Proxy(Endpoint("proxy.test", 443), "x", tls=True)),
        ("http://[2001:db8::1]:8080", Proxy(Endpoint("2001:db8::1", 8080), "x")),
        ("http://[2001:db8::1]", Proxy(Endpoint("2001:db8::1", 80), "x")),
        ("http://me@proxy.test:1", Proxy(Endpoint("proxy.test", 1), "x", login=("me", ""))),
        (
            "http://DOM%5Cme:p%40s%3As%25@proxy.test:1",
            Proxy(Endpoint("proxy.test", 1), "x", login=("DOM\\me", "p@s:s%")),
        ),
        ("me:p@ss@proxy.test:1", Proxy(Endpoint("proxy.test", 1), "x", login=("me", "p@ss"))),
    ],
)
def test_a_url_is_read(url: str, expected: Proxy) -> None:
    assert parse_proxy(url, "x") == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:3128",
        "http://proxy.test:port",
        "http://proxy.test:0",
        "http://proxy.test:99999",
        "http://u:secret/part@proxy.test:1",
        "http://u:secret#part@proxy.test:1",
        "http://secret:2024#part@proxy.test:1",
        "http://secret:2024/part@proxy.test:1",
        "http://secret:2024?part@proxy.test:1",
        "secret:2024#part@proxy.test:1",
        "https://secret#part@proxy.test:1",
        "http://u:p@secret:2024#part@proxy.test:1",
        "http://2001:db8::1:secret",
        "http://pro xy.test:1",
        "http://pröxy.test:1",
        "ftp://u:secret@proxy.test:1",
        "socks5://u:secret@proxy.test:1080",
        "socks://proxy.test:1080",
        "SOCKS5H://proxy.test:1080",
    ],
)
def test_what_is_no_such_url_is_refused_without_being_repeated(url: str) -> None:
    """There may be a password in it. It is refused where it would be used, and nowhere else."""
    rule = proxies_of({"all_proxy": url, "no_proxy": "internal.test"})
    assert rule.way_to(Endpoint("internal.test", 7400)) is None
    with pytest.raises(SettingsError, match=r"^all_proxy ") as raised:
        rule.way_to(REGISTRY)
    assert "secret" not in str(raised.value)
    assert ("SOCKS" in str(raised.value)) is url.lower().startswith("socks")


def test_no_text_of_it_has_the_login() -> None:
    proxy = parse_proxy("http://me:secret@proxy.test:3128", "https_proxy")
    rule = proxies_of({"https_proxy": "http://me:secret@proxy.test:3128"})
    for text in (str(proxy), repr(proxy), str(rule), repr(rule)):
        assert "secret" not in text
    assert str(proxy) == "the proxy proxy.test:3128, which https_proxy names"

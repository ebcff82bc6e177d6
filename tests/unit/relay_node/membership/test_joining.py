"""Reading an invitation from the command line, without repeating its secret in errors."""

import pytest
from portway_relay.errors import ConfigError
from portway_relay.membership.joining import Invitation, parse_invitation
from portway_runtime.endpoints import parse_endpoint

SECRET = "a" * 32
TOKEN = f"pwj_abc123_{SECRET}"


@pytest.mark.parametrize("address", ["registry.example.com:7400", "127.0.0.1:7400", "[::1]:7400"])
def test_a_token_says_where_it_is_from(address: str) -> None:
    """Its id, what is shown, and the registry that made it."""
    assert parse_invitation(f" {TOKEN}@{address}\n") == Invitation("abc123", TOKEN, parse_endpoint(address))


@pytest.mark.parametrize("host", ["tun.example.com", "[2001:db8::1]"])
def test_without_a_port_a_node_joins_through_another_one(host: str) -> None:
    """At the public port of nodes."""
    assert parse_invitation(f"{TOKEN}@{host}").registry == parse_endpoint(f"{host}:443")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TOKEN, "@HOST:PORT"),
        (f"{TOKEN}@registry.example.com:", "@HOST:PORT"),
        (f"{TOKEN}@registry.example.com:70000", "@HOST:PORT"),
        (f"{TOKEN}x@a:1", "portway-admin node invite"),
        (f"pw_abc123_{SECRET}@a:1", "portway-admin node invite"),
        ("", "portway-admin node invite"),
    ],
)
def test_what_is_no_token_is_refused(text: str, says: str) -> None:
    """With what it should be, and without what was given: it may be a secret."""
    with pytest.raises(ConfigError) as raised:
        parse_invitation(text)
    assert says in str(raised.value)
    assert SECRET not in str(raised.value)

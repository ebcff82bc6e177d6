"""Which registry an invitation is shown to."""

import pytest
from portway_relay.errors import RegistryAway
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import CallFault
from portway_server.errors import SetupRefused
from portway_server.joining import away, invitation_of

TOKEN = "pwj_abc123_" + "a" * 32
DOMAIN = "tun.example.com"


@pytest.mark.parametrize(
    ("text", "at", "registry"),
    [
        (TOKEN, None, Endpoint(DOMAIN, 443)),
        (f" {TOKEN}\n", None, Endpoint(DOMAIN, 443)),
        (f"{TOKEN}@registry.example.com:7400", None, Endpoint("registry.example.com", 7400)),
        (f"{TOKEN}@127.0.0.1:7400", None, Endpoint(DOMAIN, 443)),
        (f"{TOKEN}@[::1]:7400", None, Endpoint(DOMAIN, 443)),
        (f"{TOKEN}@localhost:7400", None, Endpoint(DOMAIN, 443)),
        (f"{TOKEN}@registry.example.com:7400", Endpoint("10.0.0.1", 1), Endpoint("10.0.0.1", 1)),
    ],
)
def test_the_address_is_the_invitation_s_or_the_domain_s(text: str, at: Endpoint | None, registry: Endpoint) -> None:
    """An address of loopback is the machine's that invited."""
    found = invitation_of(text, "PORTWAY_JOIN", DOMAIN, at)
    assert (found.token, found.registry) == (TOKEN, registry)


def test_what_is_no_invitation_is_not_repeated() -> None:
    """It may be a secret of another kind."""
    with pytest.raises(SetupRefused) as refused:
        invitation_of("pw_secret_token", "--token-file x", DOMAIN, None)
    assert "--token-file x is not an invitation" in str(refused.value)
    assert "secret" not in str(refused.value).replace("pwj_<id>_<secret>", "")


@pytest.mark.parametrize("fault", [one for one in CallFault if one is not CallFault.ANSWERED])
def test_a_registry_that_is_not_reached_is_told_with_what_to_do(fault: CallFault) -> None:
    """Each reason by itself; a new one has to be worded, or has gRPC's words."""
    told = away(Endpoint(DOMAIN, 443), RegistryAway(fault, "gRPC's own words"))
    assert DOMAIN in told
    assert "{" not in told
    assert "--join-at HOST:PORT" in told
    assert told.partition("--join-at")[0].rstrip().endswith(("?", "."))

"""What of the environment of `up` each program is given."""

import pytest
from portway_server.environment import for_registry, for_relay

BOTH = {
    "PATH": "/usr/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "Europe/Berlin",
    "INVOCATION_ID": "0123",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "SSL_CERT_DIR": "/etc/certs",
    "GRPC_VERBOSITY": "DEBUG",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/etc/ca.pem",
    "PYTHONPATH": "/srv/python",
    "MALLOC_ARENA_MAX": "2",
}


@pytest.mark.parametrize("given", [for_registry, for_relay])
def test_secrets_of_others_are_not_given(given: object) -> None:
    """Of the operator's shell, of `join`, of clients, of `up` itself; nor the service manager's socket, which is for
    `up`."""
    assert callable(given)
    secret = (
        *("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SSH_AUTH_SOCK", "SSLKEYLOGFILE", "CREDENTIALS_DIRECTORY", "PS1"),
        *("PORTWAY_JOIN", "PORTWAY_TOKEN", "PORTWAY_ADMIN_TOKEN", "PORTWAY_SERVER_RESOLVER", "NOTIFY_SOCKET"),
        *("MY_PATH", "PATH_TO_KEY", "XPYTHON_KEY"),
    )
    assert given(BOTH | dict.fromkeys(secret, "secret")) == BOTH


def test_each_is_given_its_own_settings() -> None:
    own = {"PORTWAY_REGISTRY_MAX_TUNNELS": "7"}, {"PORTWAY_RELAY_MAX_SESSIONS": "7", "PORTWAY_CARRIER": "python"}
    every = own[0] | own[1]
    assert (for_registry(every), for_relay(every)) == own


def test_a_proxy_is_for_the_registry_which_calls_the_acme_server() -> None:
    """Its URL may hold a login, and the relay uses no proxy."""
    proxies = {"https_proxy": "http://user:word@proxy:3128", "NO_PROXY": "localhost", "all_proxy": "http://other:1"}
    assert for_registry(proxies) == proxies
    assert for_relay(proxies) == {}

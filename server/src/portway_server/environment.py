"""What of the environment of `up` its programs are given: what they read, and nothing else.

Each handles what comes from the network as a user of its own. What an operator's shell or a service's unit holds for
others (keys of a cloud, the invitation of a machine) is no business of theirs, and the relay faces strangers.
"""

import re
from collections.abc import Mapping
from typing import Final

from portway_registry.config import SETTINGS as REGISTRY_SETTINGS
from portway_relay.settings import PREFIX as RELAY_PREFIX

# Of the system, the interpreter, and the libraries of both: gRPC, OpenSSL, the allocator. INVOCATION_ID says that a
# service manager runs them.
_FOR_BOTH: Final = re.compile(
    r"PATH|HOME|LANG|LANGUAGE|LC_\w+|TZ|TZDIR|TMPDIR|INVOCATION_ID"
    r"|LD_LIBRARY_PATH|LD_PRELOAD|MALLOC_\w+|GLIBC_TUNABLES|PYTHON\w+"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|OPENSSL_CONF|GRPC_\w+|RES_OPTIONS|LOCALDOMAIN"
)
# How the ACME server is reached. A proxy's URL may hold a login.
_FOR_REGISTRY: Final = re.compile(r"(?:https?|all|no)_proxy|(?:HTTPS?|ALL|NO)_PROXY|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE")

_FOR_RELAY: Final = re.compile(r"PORTWAY_CARRIER")


def for_registry(environment: Mapping[str, str]) -> dict[str, str]:
    """What the registry reads: its own settings among it."""
    prefix = REGISTRY_SETTINGS.variable("")
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(prefix) or _FOR_BOTH.fullmatch(name) or _FOR_REGISTRY.fullmatch(name)
    }


def for_relay(environment: Mapping[str, str]) -> dict[str, str]:
    """What the relay node reads: its own settings among it."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(RELAY_PREFIX) or _FOR_RELAY.fullmatch(name) or _FOR_BOTH.fullmatch(name)
    }

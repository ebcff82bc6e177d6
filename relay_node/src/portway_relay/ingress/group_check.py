"""Whether OpenSSL keeps to the key exchange groups that are chosen at the peek, shown by hellos of its own."""

import ssl

from portway_runtime.tls_choices import GROUPS, Group, hello_of, restrict

from portway_relay.ingress.client_hello import Parsed, parse
from portway_relay.ingress.decision import choose_group


def fault() -> str:
    """Why this machine's OpenSSL cannot serve visitors; empty when it can."""
    for group in GROUPS:
        hello = parse(_hello(group))
        if not isinstance(hello, Parsed) or choose_group(hello.groups, hello.shares) != group:
            return (
                f"{ssl.OPENSSL_VERSION} does not use {group.name} when it is told to: "
                "do the Groups in its configuration file (OPENSSL_CONF) begin with another one?"
            )
    return ""


def _hello(group: Group) -> bytes:
    """What a context with this group would send as a client. Its list of groups is the same as a server's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    restrict(context, group)
    return hello_of(context)

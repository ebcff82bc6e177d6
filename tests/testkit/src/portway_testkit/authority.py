"""A CA that a test has made, as the settings of whoever serves with its certificates."""

import trustme
from portway_carrier.values import ServerTls


def tls_of(authority: trustme.CA, *names: str) -> ServerTls:
    """A server with a new certificate for these names."""
    leaf = authority.issue_cert(*names)
    return ServerTls(b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes())

"""The forms of names that people choose: nodes, regions, tenants, domains.

Here: which names are valid, and the error for one that is not. Not here: what tunnels' labels are.
"""

import ipaddress
import re
from typing import Final

from portway_proto.wire.labels import is_label
from portway_runtime.identities import DNS_LABEL

_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_RULE: Final = "use lower-case letters, digits and inner dashes, at most 63"


def check_node(name: str) -> str:
    """The node's name, or ValueError."""
    if not DNS_LABEL.fullmatch(name):
        raise ValueError(f"{name!r} is not a node name: {_RULE}")
    return name


def check_region(name: str) -> str:
    """The region's name, or ValueError."""
    if not DNS_LABEL.fullmatch(name):
        raise ValueError(f"{name!r} is not a region name: {_RULE}")
    return name


def check_domain(domain: str) -> str:
    """The domain in lower case, or ValueError."""
    lowered = domain.lower()
    if len(lowered) > 200 or not all(DNS_LABEL.fullmatch(part) for part in lowered.split(".")):
        raise ValueError(f"{domain!r} is not a domain: use a DNS name such as tunnels.example.com, without a last dot")
    return lowered


def check_host(host: str) -> str:
    """A DNS name in lower case or an IP address, or ValueError. A zone (`%eth0`) means nothing to another machine."""
    try:
        if "%" not in host:
            return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return check_domain(host)
    except ValueError:
        raise ValueError(f"{host!r} is neither a DNS name nor an IP address") from None


def check_tenant(name: str) -> str:
    """The tenant's name, or ValueError."""
    if not _TENANT.fullmatch(name):
        raise ValueError(f"{name!r} is not a tenant name: use letters, digits and . _ @ -, at most 64")
    return name


def names_a_tunnel(name: str, domain: str) -> bool:
    """Whether a host name may be a tunnel's, or lies below one: it has a label in front of a region's zone."""
    if not name.endswith(f".{domain}"):
        return False
    before = name.removesuffix(f".{domain}").split(".")
    return len(before) > 1 and any(map(is_label, before))

"""The check that the cluster's domain is on the Public Suffix List, without which the tunnels of all tenants are one
site for browsers (docs/public-suffix-list.md).

The list is the copy that the package publicsuffixlist brings: nothing is asked over the network. Entries younger than
the copy are not known.
"""

import logging
from typing import Final

logger = logging.getLogger(__name__)

# Names below these never reach the list: RFC 6761, RFC 6762, RFC 7686, RFC 8375, RFC 9476, and ICANN's `internal`.
_NEVER_PUBLIC: Final = frozenset({"alt", "example", "internal", "invalid", "local", "localhost", "onion", "test"})
_HOME: Final = "home.arpa"
# Stands for any region: the rule has a wildcard in its place.
_ANY_REGION: Final = "region"


class SuffixCheck:
    """Warns of the first domain that it is told, once, unless browsers separate the tenants below it."""

    def __init__(self) -> None:
        self._was_told = False

    def check(self, domain: str) -> None:
        """Tell the cluster's domain, in lower case. Calls after the first one do nothing; for a domain that can be
        public that one takes some 80 ms, as it reads the list."""
        if self._was_told:
            return
        self._was_told = True
        if separates_tenants(domain):
            return
        logger.warning(
            "*.%s is not on the Public Suffix List: for browsers the tunnels of all tenants are one site and can set "
            "each other's cookies. If your tenants do not trust each other, request the entry at "
            "github.com/publicsuffix/list and put the request's address into the TXT record _psl.%s "
            "(docs/public-suffix-list.md)",
            domain,
            domain,
            extra={"domain": domain},
        )


def separates_tenants(domain: str) -> bool:
    """Whether browsers take the tunnels of each tenant for a site of its own; True for a domain that cannot be public.
    For another one it takes some 80 ms, as it reads the list."""
    return not can_be_public(domain) or _is_listed(domain)


def _is_listed(domain: str) -> bool:
    from publicsuffixlist import PublicSuffixList

    # Without accept_unknown a domain that no rule names is no suffix. Rules of the private section count.
    rules = PublicSuffixList(accept_unknown=False, only_icann=False)
    return rules.is_public(f"{_ANY_REGION}.{domain}")


def can_be_public(domain: str) -> bool:
    """Whether a domain can be one of the Internet's, by its last part."""
    top = domain.rpartition(".")[2]
    return top != domain and top not in _NEVER_PUBLIC and domain != _HOME and not domain.endswith(f".{_HOME}")

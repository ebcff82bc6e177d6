"""Which HTTP proxy a connection goes through, if any: what the environment and a program say about it, as values.

The rules are curl's: `https_proxy`, then `all_proxy`, each first in lower case, except for what `no_proxy` lists. A
proxy that a program or an argument names is used for everything.

Not here: what is said to a proxy (connect_dialogue.py), connections.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from portway_runtime.endpoints import Endpoint, is_host, parse_endpoint
from portway_runtime.errors import SettingsError

# In place of a proxy's URL: no proxy at all.
DIRECT: Final = "direct"
_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXEMPTIONS: Final = ("no_proxy", "NO_PROXY")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is asked to CONNECT. Its text names it without the login.

    source: the variable or argument that names it. tls: whether it is spoken to over TLS. login: user and password.
    """

    address: Endpoint
    source: str
    tls: bool = False
    login: tuple[str, str] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"the proxy {self.address}, which {self.source} names"


@dataclass(frozen=True, slots=True)
class Proxies:
    """The rule for all connections of one owner.

    url: of the proxy; "" is none. source: what names it. exempt: a list as `no_proxy` has it. everything: there are no
    exemptions.
    """

    url: str = field(default="", repr=False)
    source: str = ""
    exempt: str = ""
    everything: bool = False

    def way_to(self, endpoint: Endpoint) -> Proxy | None:
        """The proxy that a connection to this endpoint goes through; None for none. Raises SettingsError, without the
        login, when that proxy cannot be used."""
        if not self.url or (not self.everything and self._is_exempt(endpoint)):
            return None
        return parse_proxy(self.url, self.source)

    def _is_exempt(self, endpoint: Endpoint) -> bool:
        from portway_runtime.proxy_exemptions import is_exempt  # most programs have no proxy

        return is_exempt(self.exempt, endpoint)


NO_PROXIES: Final = Proxies()


def proxies_of(environment: Mapping[str, str], named: str | None = None, source: str = "") -> Proxies:
    """The rule that these variables make; or `named`, the URL that `source` has, when it is not None: "" and "direct"
    are no proxy. Blanks around a value are none of it. A URL is not checked before it is used."""
    if named is not None:
        return NO_PROXIES if is_direct(named) else Proxies(named.strip(), source, everything=True)
    variable, url = _first(environment, _VARIABLES)
    return Proxies(url, variable, _first(environment, _EXEMPTIONS)[1]) if url else NO_PROXIES


def is_direct(named: str) -> bool:
    """Whether this, in place of a proxy's URL, is no proxy: nothing but blanks, or "direct" in any case."""
    return named.strip().lower() in ("", DIRECT)


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    """The first of these variables that says something, and what it says."""
    told = ((name, environment.get(name, "").strip()) for name in names)
    return next((one for one in told if one[1]), ("", ""))


def parse_proxy(url: str, source: str) -> Proxy:
    """Read `http://[USER[:PASSWORD]@]HOST[:PORT]`; without a scheme it is http. Raises SettingsError, which does not
    repeat the URL: there may be a password in it."""
    scheme, found, rest = url.partition("://")
    if not found:
        scheme, rest = "http", url
    scheme = scheme.lower()
    if scheme.startswith("socks"):
        raise SettingsError(
            f"{source} names a SOCKS proxy, and Portway speaks to HTTP proxies alone: name one that allows CONNECT "
            f"with PORTWAY_PROXY=http://HOST:PORT, or use no proxy with PORTWAY_PROXY={DIRECT}"
        )
    if scheme not in _DEFAULT_PORTS:
        raise SettingsError(f"{source} names no proxy that Portway knows: its URL begins with http:// or https://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    login, _, host = authority.rpartition("@")
    try:
        if "@" in rest[len(authority) :]:  # what was cut off is part of a password, and so may be what is left
            raise ValueError
        address = parse_endpoint(host, default_port=_DEFAULT_PORTS[scheme])
        if not address.port or not is_host(address.host):
            raise ValueError
    except ValueError:
        raise SettingsError(
            f"{source} is not the URL of a proxy: write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with an "
            "IPv6 address in brackets, and in user and password each of @ : / ? # % as %40 %3A %2F %3F %23 %25"
        ) from None
    return Proxy(address, source, scheme == "https", _read_login(login) if login else None)


def _read_login(login: str) -> tuple[str, str]:
    from urllib.parse import unquote  # few proxies want a login

    user, _, password = login.partition(":")
    return unquote(user), unquote(password)

"""Visits by curl from places of the emulated network: names are looked up at a resolver there, and the test's own CA
alone is trusted."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from portway_lab.cluster.network import Network
from portway_lab.cluster.processes import clean_environment

_GIVES_UP_AFTER: Final = 30
_TOLD: Final = "\\n%{http_code} %{remote_ip} %{time_namelookup} %{time_appconnect} %{time_total}"
# The system's own configuration of names is hidden for this program alone.
_WITH_RESOLVER: Final = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Visit:
    """A page that was opened: its text, the address of the node that served it, and seconds from the beginning until
    the name was known, the certificate was accepted, and all was there."""

    page: str
    code: int
    address: str
    resolved: float
    trusted: float
    done: float


class VisitFailed(Exception):
    """curl did not get a page; the message holds what it said."""


class Visitor:
    """Somebody in a place, with a resolver."""

    def __init__(self, network: Network, place: str, *, resolver: str, trusted: Path, folder: Path) -> None:
        self.place = place
        self._network = network
        self.trusted = trusted
        self._names = folder / f"{place}.resolv.conf"
        self._names.write_text(f"nameserver {resolver}\noptions timeout:2 attempts:3\n")

    def words(self) -> list[str]:
        """What runs a program of this machine as this visitor when it goes before it."""
        inside = ["unshare", "--mount", "sh", "-c", _WITH_RESOLVER, "sh", str(self._names)]
        return [*self._network.prefix(self.place), *inside]

    def visit(self, url: str, *addresses: str) -> Visit:
        """Open a page, at the first of these addresses that answers, or at one that the resolver names. Raises
        VisitFailed."""
        options = ["--silent", "--show-error", "--max-time", str(_GIVES_UP_AFTER), "--write-out", _TOLD]
        if addresses:
            options += ["--resolve", f"{urlsplit(url).hostname}:443:{','.join(addresses)}"]
        done = subprocess.run(
            [*self.words(), "curl", *options, "--cacert", str(self.trusted), url],
            capture_output=True,
            text=True,
            check=False,
            env=clean_environment(),
            timeout=_GIVES_UP_AFTER + 10,
        )
        if done.returncode:
            raise VisitFailed(f"{self.place}: {done.stderr.strip()}")
        page, _, told = done.stdout.rpartition("\n")
        code, address, *times = told.split()
        resolved, trusted, total = map(float, times)
        return Visit(page, int(code), address, resolved, trusted, total)

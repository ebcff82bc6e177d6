"""From a full GeoIP source to the runs of the embedded table: what scripts/build_geoip_table.py loses, and how.

Here: positions become whole degrees, networks become steps of a fixed prefix length, neighbours that say the
same become one run. Not here: reading the source (the script) and the file format (format.py). The registry
itself never runs this; it is beside the format so that both are tested together.
"""

from array import array
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network

from portway_geo.format import NOWHERE, Runs
from portway_geo.locator import Position

Network = IPv4Network | IPv6Network

# Never at one place, whatever a source says: IANA's special-purpose registries (RFC 6890 and its updates), and
# the two tunnels Teredo and 6to4, whose addresses tell nothing of where their user is.
SPECIAL = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
        "::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1",
    )
)  # fmt: skip


class Cells:
    """Numbers for positions in whole degrees, given in the order in which they are first asked for."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int, str], int] = {}

    def number(self, latitude: float, longitude: float, country: str) -> int:
        """The cell of a point; NOWHERE is never given."""
        key = (round(latitude), round(longitude), country)
        return self._numbers.setdefault(key, len(self._numbers) + 1)

    def positions(self) -> tuple[Position | None, ...]:
        """All cells by number."""
        return (None, *(Position(float(lat), float(lon), country) for lat, lon, country in self._numbers))


class _Writer:
    """Appends runs; a neighbour with the same cell makes the last run longer."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.cells = array("H")
        self.end = 0

    def put(self, first: int, end: int, cell: int) -> None:
        if first > self.end:
            self._begin(self.end, NOWHERE)
        self._begin(first, cell)
        self.end = end

    def _begin(self, start: int, cell: int) -> None:
        if not self.cells or self.cells[-1] != cell:
            self.starts.append(start)
            self.cells.append(cell)


def reduce(networks: Iterable[tuple[Network, int]], *, bits: int, step: int) -> Runs:
    """The runs of `networks`, each with its cell, in steps of /`step` of addresses `bits` long.

    Networks come in ascending order and do not overlap, as an .mmdb file is iterated. Of several within one
    step the cell with the most addresses stands for all; what the source leaves out counts for nothing.
    """
    shift = bits - step
    special = [network for network in SPECIAL if network.max_prefixlen == bits]
    writer = _Writer()
    weights: dict[int, int] = {}
    shared = -1  # the step that several networks share
    for network, cell in networks:
        first = int(network.network_address) >> shift
        if shared >= 0 and first != shared:
            writer.put(shared, shared + 1, max(weights, key=weights.__getitem__))
            weights.clear()
            shared = -1
        if network.prefixlen <= step:
            writer.put(first, first + (1 << (step - network.prefixlen)), cell)
        else:
            shared = first
            weights[cell] = weights.get(cell, 0) + network.num_addresses
    if shared >= 0:
        writer.put(shared, shared + 1, max(weights, key=weights.__getitem__))
    if writer.end < 1 << step:
        writer.put(writer.end, 1 << step, NOWHERE)
    return _without(Runs(step, writer.starts, writer.cells), special, shift)


def _without(runs: Runs, holes: Iterable[Network], shift: int) -> Runs:
    """The same runs with each of `holes` (whole steps, ascending) made NOWHERE."""
    edges = [(int(hole.network_address) >> shift, (int(hole.broadcast_address) >> shift) + 1) for hole in holes]
    writer = _Writer()
    ends = [*runs.starts[1:], 1 << runs.step]
    at = 0
    for start, end, cell in zip(runs.starts, ends, runs.cells, strict=True):
        position = start
        while position < end:
            while at < len(edges) and edges[at][1] <= position:
                at += 1
            low, high = edges[at] if at < len(edges) else (end, end)
            until = min(high if low <= position else low, end)
            writer.put(position, until, NOWHERE if low <= position < high else cell)
            position = until
    return Runs(runs.step, writer.starts, writer.cells)

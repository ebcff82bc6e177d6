"""What has to be done now and then: back-ups, newer GeoIP data, the entry in the Public Suffix List, room for
connections."""

from datetime import UTC, datetime
from typing import Final

from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity
from portway_registry.doctor.units import set_limit
from portway_registry.public_suffixes import separates_tenants

_DAY_MS: Final = 86_400_000
# A cluster that is younger has little to lose.
_BACKUP_DUE_MS: Final = 7 * _DAY_MS
_BACKUP_LATE_MS: Final = 30 * _DAY_MS
# Of a file of the operator's, which its publisher replaces each week or month; of the table that comes with a release.
_FILE_OLD_MS: Final = 90 * _DAY_MS
_TABLE_OLD_MS: Final = 270 * _DAY_MS
_MUCH_OLDER: Final = 2
_BACKUP: Final = "Set --backup-dir, or `portway-registry export FILE`: docs/backup.md."


def judge_upkeep(facts: ClusterFacts) -> list[Finding]:
    """By the registry's clock."""
    if facts.health is None:
        return []
    return [*_backup(facts), *_geoip(facts), *_room(facts)]


def judge_suffix(domain: str) -> list[Finding]:
    """Whether browsers take each tenant for a site of its own. Reads the list: some 80 ms."""
    if not domain or separates_tenants(domain):
        return []
    return [
        Finding(
            "public-suffix",
            Severity.NOTE,
            domain,
            f"*.{domain} is not on the Public Suffix List.",
            "For browsers the tunnels of all tenants are one site, and can set each other's cookies.",
            "If your tenants do not trust each other, request the entry: docs/public-suffix-list.md.",
        )
    ]


def _backup(facts: ClusterFacts) -> list[Finding]:
    health = facts.health
    assert health is not None, "asked for with it"
    if health.store.failure:  # it is not known then
        return []
    if not health.HasField("backup"):
        if health.time_ms - health.created_at_ms < _BACKUP_DUE_MS:
            return []
        return [
            Finding(
                "backup-none",
                Severity.WARNING,
                "store",
                "No back-up of the store is recorded.",
                "With the store the CA, the keys and all tokens are lost: every node and every client is set up anew.",
                _BACKUP,
            )
        ]
    age = health.time_ms - health.backup.at_ms
    if age < _BACKUP_DUE_MS:
        return []
    when = f"{datetime.fromtimestamp(health.backup.at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return [
        Finding(
            "backup-old",
            Severity.ERROR if age >= _BACKUP_LATE_MS else Severity.WARNING,
            "store",
            f"The last back-up of the store is of {when}, {age // _DAY_MS} days ago.",
            "Tokens, nodes and keys that are younger are lost with the store.",
            _BACKUP,
        )
    ]


def _geoip(facts: ClusterFacts) -> list[Finding]:
    health = facts.health
    assert health is not None, "asked for with it"
    made, file = health.geoip.made_at_ms, health.geoip.file
    limit = _FILE_OLD_MS if file else _TABLE_OLD_MS
    age = health.time_ms - made
    if not made or age < limit:
        return []
    what = f"The GeoIP file {file}" if file else "The GeoIP table of this release"
    return [
        Finding(
            "geoip-old",
            Severity.WARNING if age >= _MUCH_OLDER * limit else Severity.NOTE,
            file or "embedded",
            f"{what} is {age // _DAY_MS} days old.",
            "More and more clients are sent to a node that is not their nearest, until round trips are learned.",
            "Fetch a newer file and restart the registry."
            if file
            else "Upgrade Portway, or give --geoip a newer file.",
        )
    ]


def _room(facts: ClusterFacts) -> list[Finding]:
    health = facts.health
    assert health is not None, "asked for with it"
    if health.max_connections >= health.wanted_connections:
        return []
    return [
        Finding(
            "registry-descriptors",
            Severity.WARNING,
            "registry",
            f"The registry holds {health.max_connections} connections at each port, of the {health.wanted_connections} "
            f"of its settings: it may have {health.descriptors} file descriptors.",
            "Nodes and clients beyond that are refused.",
            f"{set_limit(health.unit, 'Raise LimitNOFILE')}; or lower --max-connections.",
        )
    ]

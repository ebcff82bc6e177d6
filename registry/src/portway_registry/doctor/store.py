"""The store: whether it answers, how many of its members may still be lost, its size, its release."""

import re
from collections.abc import Sequence
from typing import Final

from portway_proto.v1.admin_pb2 import StoreHealth, StoreMember

from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity

_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
# etcd's --quota-backend-bytes unless its operator sets another; above it nothing is written.
_QUOTA: Final = 2 * _GIB
_LARGE: Final = 0.8
# Bytes of a database below which its holes do not matter.
_FRAGMENTED: Final = 256 * _MIB
# Free bytes of the disk of an embedded store.
_DISK_LOW: Final = _GIB
_DISK_OUT: Final = 100 * _MIB
_SLOW_US: Final = 200_000  # a commit on a healthy disk takes 10 ms, and a round trip between regions 100
_BEHIND: Final = 10_000  # log entries, some seconds of a busy cluster's writes
_VERSION: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_OLDEST: Final = (3, 4, 0)
# These lose data when they are killed under load (etcd's issue 13766).
_LOSSY: Final = range(3)


def judge_store(facts: ClusterFacts) -> list[Finding]:
    """Nothing when the registry does not say how its store is."""
    if facts.health is None:
        return []
    store = facts.health.store
    found = []
    if store.failure:
        found.append(
            Finding(
                "store-away",
                Severity.ERROR,
                store.kind,
                f"The store does not answer the registry that was asked: {store.failure}.",
                "Tunnels go on, and new ones open; nothing can be changed, and no registry can start.",
                "`etcdctl endpoint status --cluster -w table`, and start the members that do not run; if all run, mend "
                "the way to them from the registry that was asked."
                if store.kind == "etcd"
                else "Look at the disk and the file's permissions.",
            )
        )
    return found + (_judge_etcd(store) if store.kind == "etcd" else _judge_embedded(store))


def _judge_embedded(store: StoreHealth) -> list[Finding]:
    size = sum(member.size for member in store.members)
    if not size or store.disk_free >= max(_DISK_LOW, 2 * size):
        return []
    return [
        Finding(
            "store-disk",
            Severity.ERROR if store.disk_free < max(_DISK_OUT, size) else Severity.WARNING,
            store.members[0].endpoint,
            f"The disk of the store has {store.disk_free // _MIB} MiB free; the store has {size // _MIB} MiB.",
            "On a full disk no token is made, no key is replaced and no node registers.",
            "Make room on that disk, or move the store: docs/backup.md.",
        )
    ]


def _judge_etcd(store: StoreHealth) -> list[Finding]:
    return [*_judge_members(store), *(finding for one in store.members for finding in _judge_member(one))]


def _judge_members(store: StoreHealth) -> list[Finding]:
    voters = [one for one in store.members if not one.learns]
    silent = [one for one in voters if one.failure]
    quorum = len(voters) // 2 + 1
    spare = len(voters) - len(silent) - quorum
    found = []
    if silent and not store.failure:
        found.append(
            Finding(
                "store-member-silent",
                Severity.WARNING if spare else Severity.ERROR,
                _names(silent),
                f"{_names(silent)} of etcd's {len(voters)} members does not answer: {silent[0].failure}.",
                f"{spare} more may be lost before nothing can be written."
                if spare
                else "With the next one nothing can be written.",
                "Start it (`systemctl start etcd` there), or replace it (`etcdctl member remove`, `member add`).",
            )
        )
    if len(voters) == 1:
        found.append(
            Finding(
                "store-of-one",
                Severity.NOTE,
                "etcd",
                "etcd has one member.",
                "With its machine the registry stops, and with its disk the cluster's keys are lost.",
                "Three members on three machines (`etcdctl member add`), and back-ups: docs/backup.md.",
            )
        )
    elif len(voters) % 2 == 0:
        found.append(
            Finding(
                "store-even",
                Severity.WARNING,
                "etcd",
                f"etcd has {len(voters)} members.",
                f"That bears the loss of no more members than {len(voters) - 1}, and one more can fail.",
                "Add or remove one: `etcdctl member add`, `etcdctl member remove`.",
            )
        )
    unlisted = [one for one in voters if not one.endpoint]
    if unlisted:
        found.append(
            Finding(
                "store-unlisted",
                Severity.WARNING,
                _names(unlisted),
                f"The registry has no endpoint of {_names(unlisted)} of etcd's {len(voters)} members.",
                "When those that it has are lost, it loses the store though etcd works.",
                "Add its URL to --store of each registry, and restart them one after the other.",
            )
        )
    leader = next((one for one in store.members if one.leads), None)
    behind = [one for one in voters if leader and one.applied and leader.applied - one.applied > _BEHIND]
    if behind and leader is not None:
        found.append(
            Finding(
                "store-behind",
                Severity.WARNING,
                _names(behind),
                f"{_names(behind)} is {leader.applied - behind[0].applied} entries behind etcd's leader.",
                "While it catches up it is no help when another one is lost.",
                "Look at its disk and its network; `etcdctl endpoint status --cluster -w table` shows it catch up.",
            )
        )
    return found


def _judge_member(one: StoreMember) -> list[Finding]:
    name, found = one.name or one.endpoint, []
    for alarm in one.alarms:
        mend = (
            "`etcdctl compact`, `etcdctl defrag`, raise --quota-backend-bytes, then `etcdctl alarm disarm`."
            if alarm == "NOSPACE"
            else "Replace the member (`etcdctl member remove`, `etcdctl member add` with an empty disk)."
        )
        found.append(
            Finding(
                "store-alarm",
                Severity.ERROR,
                name,
                f"etcd's member {name} has raised the alarm {alarm}.",
                "etcd takes no writes." if alarm == "NOSPACE" else "Its data differs from that of the others.",
                mend,
            )
        )
    if one.size >= _LARGE * _QUOTA and "NOSPACE" not in one.alarms:
        found.append(
            Finding(
                "store-large",
                Severity.WARNING,
                name,
                f"The database of etcd's member {name} has {one.size // _MIB} MiB; etcd's own limit is "
                f"{_QUOTA // _MIB} MiB unless --quota-backend-bytes sets another.",
                "Above the limit etcd takes no writes.",
                "Let it compact (--auto-compaction-retention 1h), then `etcdctl defrag`, one member after the other.",
            )
        )
    elif one.size >= _FRAGMENTED and one.used < one.size / 2:
        found.append(
            Finding(
                "store-fragmented",
                Severity.NOTE,
                name,
                f"The database of etcd's member {name} has {one.size // _MIB} MiB and uses {one.used // _MIB} of them.",
                "It counts against etcd's limit as a whole.",
                "`etcdctl defrag`, one member after the other.",
            )
        )
    if one.round_trip_us > _SLOW_US:
        found.append(
            Finding(
                "store-slow",
                Severity.WARNING,
                name,
                f"etcd's member {name} answers the registry in {one.round_trip_us // 1000} ms.",
                "Tunnels are announced, and tokens revoked, as much later.",
                "Look at its load and its disk (`etcdctl check perf`); keep registries near the store.",
            )
        )
    return found + _judge_version(name, one.version)


def _judge_version(name: str, version: str) -> list[Finding]:
    match = _VERSION.match(version)
    if match is None:
        return []
    number = tuple(map(int, match.groups()))
    lossy = number[:2] == (3, 5) and number[2] in _LOSSY
    if number >= _OLDEST and not lossy:
        return []
    why = "It can lose what was written when it is killed." if lossy else "The registry was not tried with it."
    return [
        Finding(
            "store-version",
            Severity.WARNING,
            name,
            f"etcd's member {name} is of release {version}.",
            why,
            "Upgrade etcd to the newest 3.5, one member after the other.",
        )
    ]


def _names(members: Sequence[StoreMember]) -> str:
    return ", ".join(one.name or one.endpoint for one in members)

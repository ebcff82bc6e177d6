"""What of a node's record is worth a write to the store, and worth telling to other nodes."""

from typing import Final

from portway_proto.v1.types_pb2 import NodeInfo

from portway_registry.state.records import FOR_REGISTRIES, is_ready

_CLOCKS_APART: Final = 60  # seconds by which clocks differ, messages on their way apart
_FARTHEST: Final = 2**31 - 1  # seconds that the record's field holds


def clock_ahead(time_ms: int, now_ms: int) -> int:
    """By how many seconds a clock that shows `time_ms` is ahead; 0 for less than a minute, which messages may take, and
    for a clock that is not told."""
    seconds = round((time_ms - now_ms) / 1000)
    if not time_ms or abs(seconds) < _CLOCKS_APART:
        return 0
    return max(-_FARTHEST, min(_FARTHEST, seconds))


def is_notable(stored: NodeInfo, now: NodeInfo) -> bool:
    """Whether the change is worth a write: of state, reach, clock, certificates, the keys and CAs it knows, what DNS
    answers say of it and by which version, whether it accepts clients, or of a count by over a tenth.

    Without the last but one, a node that filled up from nine tenths on would be offered to clients that it refuses.
    """
    if (stored.state, stored.reach, stored.reach_failure) != (now.state, now.reach, now.reach_failure):
        return True
    if bool(stored.clock_ahead_s) != bool(now.clock_ahead_s):
        return True
    if abs(stored.clock_ahead_s - now.clock_ahead_s) >= _CLOCKS_APART:
        return True
    if (stored.certificate_end_s, stored.lacking_regions) != (now.certificate_end_s, now.lacking_regions):
        return True
    if _known(stored) != _known(now) or _named(stored) != _named(now):
        return True
    if _is_full(stored) != _is_full(now) and is_ready(now):
        return True
    counts = ((stored.sessions, now.sessions), (stored.tunnels, now.tunnels), (stored.visits, now.visits))
    return any(abs(after - before) > before // 10 for before, after in counts)


def without_counts(node: NodeInfo) -> NodeInfo:
    """The record without what changes and does not concern other nodes: counts, reach, the ends of certificates, the
    clock, what it knows."""
    bare = NodeInfo()
    bare.CopyFrom(node)
    bare.sessions = bare.tunnels = bare.visits = 0
    bare.ClearField("reach")
    bare.ClearField("reach_failure")
    bare.ClearField("certificate_end_s")
    bare.ClearField("lacking_regions")
    bare.ClearField("clock_ahead_s")
    for field in FOR_REGISTRIES:
        bare.ClearField(field)
    return bare


def _known(node: NodeInfo) -> tuple[object, ...]:
    """What is waited for before a key or a CA is used, or taken away."""
    return list(node.grant_keys), list(node.authorities), node.certificate_authority, node.unaware_clients > 0


def _named(node: NodeInfo) -> tuple[object, ...]:
    """What DNS answers of all nodes need at once, and what is waited for before a certificate authority looks."""
    return list(node.addresses), list(node.zones), node.dns, node.dns_version


def _is_full(node: NodeInfo) -> bool:
    """Whether its sessions alone keep it from accepting clients. Checked at each KeepAlive, so kept cheap."""
    return 0 < node.max_sessions <= node.sessions

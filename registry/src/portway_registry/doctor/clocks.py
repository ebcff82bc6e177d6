"""Clocks: this machine's, the registry's, each node's."""

from portway_proto.wire.limits import CLOCK_LEEWAY

from portway_registry.doctor.facts import ClusterFacts
from portway_registry.doctor.finding import Finding, Severity

_APART = 60.0  # seconds, as from which a node's clock is reported
_MEND = "Synchronise the clock there: `timedatectl set-ntp true`, or chrony."


def judge_clocks(facts: ClusterFacts) -> list[Finding]:
    """Clocks that differ from the registry's by a minute or more."""
    found = []
    if facts.health is not None:
        ahead = (facts.asked_at_ms - facts.health.time_ms) / 1000
        if abs(ahead) - facts.round_trip / 2 >= _APART:
            found.append(
                Finding(
                    "clock-of-this-machine",
                    Severity.WARNING,
                    "this machine",
                    f"The clock of this machine is {_way(ahead)} the registry's.",
                    "One of the two is wrong; by a wrong one certificates seem to have ended or not to have begun.",
                    "Compare both with `date -u`. " + _MEND,
                )
            )
    for node in facts.nodes:
        ahead = float(node.clock_ahead_s)
        if abs(ahead) > CLOCK_LEEWAY:
            found.append(
                Finding(
                    "clock-of-a-node",
                    Severity.ERROR,
                    node.name,
                    f"The clock of node {node.name} is {_way(ahead)} the registry's.",
                    "It cannot judge grants, and gets no clients.",
                    _MEND,
                )
            )
        elif abs(ahead) >= _APART:
            found.append(
                Finding(
                    "clock-of-a-node",
                    Severity.WARNING,
                    node.name,
                    f"The clock of node {node.name} is {_way(ahead)} the registry's.",
                    f"Above {CLOCK_LEEWAY / 60:.0f} minutes it cannot judge grants and gets no clients.",
                    _MEND,
                )
            )
    return found


def _way(ahead: float) -> str:
    return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"

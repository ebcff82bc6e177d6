"""The tables of a run: contestants beside each other, figures beside their goals, and the machine they are from.

Here: medians of rounds, ratios, goals. Not here: measuring.
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from portway_lab.bench.measures import Figures


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a figure of a measure, its title and digits, and whether more is better."""

    measure: str
    figure: str
    title: str
    digits: int = 0
    more_is_better: bool = True


ROWS = (
    Row("bulk", "mb_per_s", "bulk, MB/s"),
    Row("bulk", "cpu_s_per_gb", "bulk, CPU-s per GB", 2, False),
    Row("requests", "per_s", "32 connections, requests/s"),
    Row("requests", "p50_us", "32 connections, median µs", 0, False),
    Row("requests", "p99_us", "32 connections, 99th µs", 0, False),
    Row("requests", "cpu_us", "32 connections, CPU µs per request", 1, False),
    Row("latency", "per_s", "1 connection, requests/s"),
    Row("latency", "p50_us", "1 connection, median µs", 0, False),
    Row("latency", "p99_us", "1 connection, 99th µs", 0, False),
    Row("latency", "cpu_us", "1 connection, CPU µs per request", 1, False),
    Row("connections", "per_s", "new connections/s"),
    Row("connections", "per_s_of_a_core", "new connections/s, load on another core"),
    Row("connections", "cpu_us", "CPU µs per new connection", 0, False),
    Row("connections", "answer_ms", "a new connection's answer, ms", 1, False),
    Row("connections", "answer_without_nodelay_ms", "the same without TCP_NODELAY, ms", 1, False),
    Row("idle", "node_kb", "idle visitor, KB in node", 1, False),
    Row("idle", "client_kb", "idle visitor, KB in client", 1, False),
)
_ORDER = ("direct", "portway", "haproxy", "ssh -R")
# Portway's figures are divided by this contestant's.
_RIVAL = "haproxy"


def medians(rounds: Iterable[Figures]) -> Figures:
    """The median of each figure over the rounds."""
    all_rounds = list(rounds)
    return {name: statistics.median(figures[name] for figures in all_rounds) for name in all_rounds[0]}


def machine() -> dict[str, Any]:
    """The hardware, the kernel and the versions that the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "portway": version("portway"),
        "uvloop": version("uvloop"),
        "carrier": os.environ.get("PORTWAY_CARRIER", "default"),
        **{name: _first_line(command) for name, command in _VERSIONS.items()},
    }


_VERSIONS = {
    "openssl": ["openssl", "version"],
    "nginx": ["nginx", "-v"],
    "haproxy": ["haproxy", "-v"],
    "ssh": ["ssh", "-V"],
    "wrk": ["wrk", "-v"],
    "commit": ["git", "describe", "--always", "--dirty"],
}


def table(result: dict[str, dict[str, Figures]], forward: dict[str, Figures]) -> str:
    """`result` is measure → contestant → medians; `forward` is way of calling forward() → figures."""
    measured = {name for figures in result.values() for name in figures}
    names = [name for name in _ORDER if name in measured]
    lines = []
    if names:
        width = max(len(row.title) for row in ROWS)
        ratio = f"portway/{_RIVAL}" if {"portway", _RIVAL} <= set(names) else ""
        lines.append(" ".join([" " * width, *(f"{name:>10}" for name in names), f"  {ratio}"]).rstrip())
        for row in ROWS:
            if row.measure in result:
                lines.append(_line(row, result[row.measure], names, width))
    if forward:
        lines.append("")
        lines.append(f"{'forward() ready':<40} {'median ms':>10} {'99th ms':>10} {'times':>6}")
        for name, figures in forward.items():
            count = int(figures["count"])
            lines.append(f"{name:<40} {figures['median_ms']:>10.2f} {figures['p99_ms']:>10.2f} {count:>6}")
    return "\n".join(lines)


def _line(row: Row, figures: dict[str, Figures], names: list[str], width: int) -> str:
    cells = []
    for name in names:
        value = figures.get(name, {}).get(row.figure)
        cells.append(f"{'–':>10}" if value is None else f"{value:>10,.{row.digits}f}")
    ours = figures.get("portway", {}).get(row.figure)
    theirs = figures.get(_RIVAL, {}).get(row.figure)
    ratio = f"{ours / theirs:>6.2f} ×" if ours is not None and theirs else ""
    better = "" if row.more_is_better or not ratio else " (less is better)"
    return " ".join([f"{row.title:<{width}}", *cells, f"  {ratio}{better}"]).rstrip()


def _cpu_model() -> str:
    with open("/proc/cpuinfo") as lines:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _first_line(command: list[str]) -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=10, env={**os.environ, "PATH": path}
        )
    except OSError:
        return "missing"
    return next(iter((done.stdout + done.stderr).splitlines()), "")


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure without an opponent, and its bound; `bound` None means that none is set. `note` says what it is compared
    with.
    """

    title: str
    value: float
    unit: str
    bound: float | None = None
    at_most: bool = True
    note: str = ""

    @property
    def reached(self) -> bool:
        if self.bound is None:
            return True
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "reached": self.reached}


def goal_table(title: str, goals: Sequence[Goal]) -> str:
    lines = [f"{title:<58} {'measured':>14} {'goal':>14}"]
    for goal in goals:
        sign = "≤" if goal.at_most else "≥"
        bound = "" if goal.bound is None else f"{sign} {_number(goal.bound)} {goal.unit}"
        verdict = "" if goal.reached else "  MISSED"
        note = f"  ({goal.note})" if goal.note else ""
        lines.append(f"{goal.title:<58} {f'{_number(goal.value)} {goal.unit}':>14} {bound:>14}{verdict}{note}")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")

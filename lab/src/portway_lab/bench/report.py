"""The table and the JSON of a run.

Here: medians of rounds, ratios, what machine it was. Not here: measuring.
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from portway_lab.bench.measures import Figures


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a figure of a measure, how it is written, and whether more is better."""

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
    Row("idle", "node_kb", "idle visitor, KB in node", 1, False),
    Row("idle", "client_kb", "idle visitor, KB in client", 1, False),
)
_ORDER = ("direct", "portway", "haproxy", "ssh -R")
# The one that Portway's figures are divided by.
_RIVAL = "haproxy"


def medians(rounds: Iterable[Figures]) -> Figures:
    """Of each figure over the rounds."""
    kept = list(rounds)
    return {name: statistics.median(figures[name] for figures in kept) for name in kept[0]}


def machine() -> dict[str, Any]:
    """What the figures depend on and the reader cannot see."""
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
    """`result` is measure → contestant → medians; `forward` the ways of starting one → figures."""
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

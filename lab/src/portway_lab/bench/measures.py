"""What is measured on a contestant: one function for each measure, each returning plain numbers.

Here: running a load (visitors.py, clients.py) and dividing by it. Not here: rounds, medians, tables.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from portway_lab.bench.contestants import Contestant
from portway_lab.bench.usage import cpu_seconds, on_cores, resident_kb
from portway_lab.bench.wrk import run_wrk

Figures = dict[str, float]
# Enough to keep two cores busy; about what six browsers open.
CONNECTIONS = 32
NEW_AT_ONCE = 16
FIRST_ANSWERS = 25  # of connections with TCP_NODELAY, and as many without
_FORWARD_ONCE = Path(__file__).with_name("forward_once.py")
_LOAD_TIMEOUT = 300.0
_SETTLE = 1.0  # seconds for allocators and timers to come to rest


def bulk(contestant: Contestant, size: int) -> Figures:
    """One visitor downloads `size` bytes over one connection."""
    before = cpu_seconds(contestant.pids)
    load = _load("visitors", "download", contestant.endpoint.to_json(), str(size))
    cpu = cpu_seconds(contestant.pids) - before
    return {"mb_per_s": load["bytes"] / 1e6 / load["seconds"], "cpu_s_per_gb": cpu / (load["bytes"] / 1e9)}


def requests(contestant: Contestant, seconds: float, folder: Path) -> Figures:
    """Keep-alive requests over 32 connections, by wrk."""
    before = cpu_seconds(contestant.pids)
    result = run_wrk(contestant.endpoint, CONNECTIONS, seconds, folder)
    cpu = cpu_seconds(contestant.pids) - before
    return {
        "per_s": result.requests / result.seconds,
        "p50_us": result.p50_us,
        "p99_us": result.p99_us,
        "cpu_us": cpu / max(1, result.requests) * 1e6,
        "errors": result.errors,
    }


def latency(contestant: Contestant, seconds: float) -> Figures:
    """Requests in sequence over one connection."""
    before = cpu_seconds(contestant.pids)
    load = _load("visitors", "requests", contestant.endpoint.to_json(), str(seconds))
    cpu = cpu_seconds(contestant.pids) - before
    taken = load["latencies_us"]
    return {
        "per_s": len(taken) / load["seconds"],
        "p50_us": statistics.median(taken),
        "p99_us": statistics.quantiles(taken, n=100)[98],
        "cpu_us": cpu / len(taken) * 1e6,
    }


def connections(contestant: Contestant, seconds: float) -> Figures:
    """Visitors that connect, ask once and leave, 16 at a time, each with a full handshake.

    Measured twice: with everything on all cores, where the load uses as much CPU as the contestant; and with all
    processes of the contestant on one core and load and origin on the others, which is the contestant's own capacity.
    """
    before = cpu_seconds(contestant.pids)
    load = _load("visitors", "connections", contestant.endpoint.to_json(), str(NEW_AT_ONCE), str(seconds))
    cpu = cpu_seconds(contestant.pids) - before
    figures = {
        "per_s": load["connections"] / load["seconds"],
        "cpu_us": cpu / max(1, load["connections"]) * 1e6,
        "failures": load["failures"],
    }
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        others = ("taskset", "--cpu-list", ",".join(map(str, cores[:-1])))
        with on_cores(contestant.pids, {cores[-1]}):
            load = _load(
                "visitors", "connections", contestant.endpoint.to_json(), str(NEW_AT_ONCE), str(seconds), prefix=others
            )
        figures["per_s_of_a_core"] = load["connections"] / load["seconds"]
    load = _load("visitors", "answers", contestant.endpoint.to_json(), str(FIRST_ANSWERS))
    figures["answer_ms"] = statistics.median(load["nodelay_ms"])
    figures["answer_without_nodelay_ms"] = statistics.median(load["without_ms"])
    return figures


def idle(contestant: Contestant, visitors: int) -> Figures:
    """Resident memory of each part for one visitor that has asked once and stays connected."""
    _load("visitors", "requests", contestant.endpoint.to_json(), "0.2")  # the first visitor's own cost is not counted
    time.sleep(_SETTLE)
    before = {part: resident_kb(pids) for part, pids in contestant.parts.items()}
    idle_load = command("visitors", "idle", contestant.endpoint.to_json(), str(visitors))
    with subprocess.Popen(idle_load, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as load:
        assert load.stdout is not None
        if not load.stdout.readline():
            raise RuntimeError(f"{contestant.name}: {visitors} idle visitors could not be held")
        time.sleep(_SETTLE)
        after = {part: resident_kb(pids) for part, pids in contestant.parts.items()}
        load.communicate()
    return {f"{part}_kb": (after[part] - before[part]) / visitors for part in before if part != "registry"}


def forward_ready(kind: str, count: int, exports: dict[str, str], prefix: tuple[str, ...] = ()) -> Figures:
    """forward() in a process that had a tunnel before ("warm") or has one open ("second")."""
    load = _load("clients", kind, str(count), environment=exports, prefix=prefix)
    return _spread(load["ms"])


def forward_fresh(count: int, exports: dict[str, str]) -> Figures:
    """From the start of an interpreter until its forward() is ready."""
    taken = []
    for _ in range(count):
        started = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, str(_FORWARD_ONCE)],  # not -m: its imports would be measured too
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **exports},
        ) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("forward() in a fresh interpreter did not get ready; its message is above")
            taken.append((time.perf_counter() - started) * 1000)
            process.communicate()
    return _spread(taken)


def _spread(taken: list[float]) -> Figures:
    p99 = statistics.quantiles(taken, n=100, method="inclusive")[98]
    return {"median_ms": statistics.median(taken), "p99_ms": p99, "count": len(taken)}


def command(program: str, *arguments: str) -> list[str]:
    """One of this folder's programs."""
    return [sys.executable, "-m", f"portway_lab.bench.{program}", *arguments]


def _load(
    program: str, *arguments: str, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Run one of this folder's programs and read the JSON it prints. Raises RuntimeError."""
    done = subprocess.run(
        [*prefix, *command(program, *arguments)],
        capture_output=True,
        text=True,
        timeout=_LOAD_TIMEOUT,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != 0:
        raise RuntimeError(f"{program} failed:\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result

"""What must be true again once every fault is taken back.

Here: the questions, each answered with what is wrong at the moment; waiting until nothing is. Not here: faults.
"""

import itertools
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.clients import NamedTunnel
from cluster.own_answers import Ask
from cluster.processes import ProcessFailed
from cluster.visits import ask, connect, visitor_context

from chaos_run.plan import NODES, REGISTRIES
from chaos_run.stage import VISITOR, Stage

# A lease and the longest silence together, and a lost session's time to resume.
_SETTLES_WITHIN = 60.0
_POLL = 0.5
_TIMEOUT = 6.0
_AT_ONCE = 8
_PREFIX = "portway_relay_"
_AT_REST = ("visits", "sessions_away", "half_open_connections", "greeting_lanes")


def settle(question: Callable[[], list[str]], within: float = _SETTLES_WITHIN) -> list[str]:
    """Ask until nothing is wrong; what is still wrong when the time is up."""
    deadline = time.monotonic() + within
    while (wrong := question()) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return wrong


def not_served(stage: Stage) -> list[str]:
    """Tunnels that do not give exactly their own bytes, at some node. Raises WrongBytes: that is never mended."""
    context = visitor_context(stage.cluster.ca)

    def visit(tunnel: NamedTunnel, node: str) -> str:
        try:
            with stage.network.inside(VISITOR):
                with connect(context, stage.listens[node], tunnel, _TIMEOUT) as connection:
                    ask(connection, tunnel, Ask(1_000))
                    ask(connection, tunnel, Ask(1_000, upload=True))
        except OSError as error:
            return f"{tunnel.name} is not served at {node}: {error}"
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as visitors:
        pairs = itertools.product(stage.tunnels.values(), NODES)
        return [wrong for wrong in visitors.map(lambda pair: visit(*pair), pairs) if wrong]


def disagreements(stage: Stage, *, closed: bool = False) -> list[str]:
    """Where a registry's view is not the nodes', or something is left over. `closed`: no tunnel is open any more."""
    expected = Counter[str]() if closed else Counter(tunnel.label for tunnel in stage.tunnels.values())
    wrong = []
    held = {}
    for node in NODES:
        try:
            metrics = _metrics(stage, node)
        except OSError as error:
            wrong.append(f"{node} does not say how it is: {error}")
            continue
        held[stage.names[node]] = int(metrics["tunnels"])
        wrong += [f"{node} has {metrics[name]:g} {name}" for name in _AT_REST if metrics[name]]
        if not metrics["registry_connected"]:
            wrong.append(f"{node} has no registry")
        if closed and metrics["sessions"]:
            wrong.append(f"{node} has {metrics['sessions']:g} sessions")
    for place, registry in zip(REGISTRIES, stage.cluster.registries, strict=True):
        prefix = stage.network.prefix(place)
        try:
            nodes = stage.cluster.ask("node", "list", prefix=prefix, registry=registry)["nodes"]
            tunnels = stage.cluster.ask("tunnel", "list", prefix=prefix, registry=registry)["tunnels"]
        except ProcessFailed as error:
            wrong.append(f"{place} does not answer: {str(error)[-200:]}")
            continue
        states = {node["name"]: node["state"] for node in nodes}
        if states != dict.fromkeys(stage.names.values(), "ready"):
            wrong.append(f"{place} knows these nodes: {states}")
        if Counter(tunnel["label"] for tunnel in tunnels) != expected:
            wrong.append(f"{place} shows {len(tunnels)} tunnels in place of {expected.total()}, or others")
        homes = Counter(tunnel["node"] for tunnel in tunnels)
        for name, count in held.items():
            if homes[name] != count:
                wrong.append(f"{place} shows {homes[name]} tunnels at {name}, which holds {count}")
    return wrong


def tracebacks(stage: Stage) -> list[str]:
    """Log files with an error that nobody handled."""
    return [
        f"a traceback is in {log}"
        for log in sorted(stage.folder.glob("*.log"))
        if "Traceback (most recent call last)" in log.read_text(errors="replace")
    ]


def _metrics(stage: Stage, node: str) -> dict[str, float]:
    with stage.network.inside(VISITOR):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{stage.admin_listens[node]}/metrics", timeout=_TIMEOUT) as answer:
            lines = answer.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if line.startswith(_PREFIX))
    return {name.removeprefix(_PREFIX): float(value) for name, _, value in samples}

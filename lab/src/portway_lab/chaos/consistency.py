"""What must be true again once every fault is undone.

Here: checks that return what is wrong at the moment, and waiting until nothing is. Not here: faults.
"""

import itertools
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from portway_lab.chaos.ledger import Got, Visit
from portway_lab.chaos.plan import HOSTILE, NODES, REGIONS, REGISTRIES
from portway_lab.chaos.stage import VISITOR, Stage
from portway_lab.chaos.visitors import visit
from portway_lab.cluster.clients import NamedTunnel
from portway_lab.cluster.processes import ProcessFailed
from portway_lab.cluster.visits import Ask, WrongBytes, visitor_context

# Seconds: a lease, the longest silence, and the time in which a lost session may resume, added.
_SETTLES_WITHIN = 60.0
_POLL = 0.5
_TIMEOUT = 6.0
_AT_ONCE = 16
_PREFIX = "portway_relay_"
_Target = tuple[NamedTunnel, str, bool]  # a tunnel, a node, whether at its raw port
_AT_REST = ("visits", "sessions_away", "half_open_connections", "greeting_lanes")


def settle(question: Callable[[], list[str]], within: float = _SETTLES_WITHIN) -> list[str]:
    """Repeat a check until nothing is wrong. Returns what is still wrong after `within` seconds."""
    deadline = time.monotonic() + within
    while (wrong := question()) and time.monotonic() < deadline:
        time.sleep(_POLL)
    return wrong


def not_served(stage: Stage) -> list[str]:
    """Open tunnels that are not served at some node. Raises WrongBytes."""
    targets = [
        (tunnel, node, raw) for tunnel, raw in stage.addresses() for node in stage.ingress_nodes(tunnel, raw=raw)
    ]
    return [f"not served: {where}" for where in _unserved(stage, targets)]


def severed(stage: Stage) -> tuple[int, list[str]]:
    """The visits that were made, and those not served, of tunnels that were never at the hostile node, at the other
    nodes. While it alone does harm there must be none. Raises WrongBytes."""
    targets = [
        (tunnel, node, raw)
        for tunnel, raw in stage.addresses()
        if not stage.hostile.was_placed(tunnel.label)
        for node in stage.ingress_nodes(tunnel, raw=raw)
        if node != HOSTILE
    ]
    wrong = [f"not served while only {HOSTILE} lied: {where}" for where in _unserved(stage, targets)]
    return len(targets), wrong


def not_at_hostile(stage: Stage) -> list[str]:
    """Open tunnels of the hostile node's region that are homed at another node, as a registry shows them."""
    homes = _homes(stage)
    return [
        f"{tunnel.name} is not at {HOSTILE}"
        for tunnel in stage.ledger.open_now()
        if tunnel.region == REGIONS[HOSTILE] and homes.get(tunnel.label) != HOSTILE
    ]


def not_at_nearest(stage: Stage) -> list[str]:
    """Tunnels that were opened in the region that is nearest to their client, while nothing was wrong, and are homed in
    another, as a registry shows them."""
    homes = _homes(stage)
    return [
        f"{tunnel.name} is at {homes.get(tunnel.label)}, not in {tunnel.region}"
        for tunnel in stage.tunnels.values()
        if REGIONS.get(homes.get(tunnel.label, "")) != tunnel.region
    ]


def _homes(stage: Stage) -> dict[str, str]:
    """The place of each tunnel's home node, by label; without any when no registry answers."""
    try:
        tunnels = stage.cluster.ask("tunnel", "list", prefix=stage.network.prefix(REGISTRIES[0]))["tunnels"]
    except ProcessFailed:
        return {}
    places = {name: place for place, name in stage.names.items()}
    return {tunnel["label"]: places[tunnel["node"]] for tunnel in tunnels}


def still_answered(stage: Stage) -> list[str]:
    """Closed tunnels whose address is answered at some node. A raw port that has rested may belong to another
    tunnel."""
    ledger = stage.ledger
    lives = {life.tunnel.name: life for life in ledger.closed()}
    targets = [
        (life.tunnel, node, raw)
        for life, raw in itertools.product(lives.values(), (False, True))
        if not raw or (life.tunnel.raw_port and not ledger.may_be_reassigned(life))
        for node in stage.ingress_nodes(life.tunnel, raw=raw)
    ]
    visits = _visit_all(stage, targets)
    wrong = [
        lives[tunnel.name].violation(done, ledger.rest) for (tunnel, _, _), done in zip(targets, visits, strict=True)
    ]
    return list(filter(None, wrong))


def _unserved(stage: Stage, targets: Sequence[_Target]) -> list[str]:
    """Where a visitor does not get its tunnel's bytes, and why. Raises WrongBytes, which no later check can make good,
    when one gets others."""
    visits = _visit_all(stage, targets)
    for done in visits:
        if done.got in (Got.FOREIGN, Got.HOSTILE):
            raise WrongBytes(f"at {done.node}: {done.reason}")
    return [
        f"{tunnel.name}{' (raw)' if raw else ''} at {node}: {done.reason}"
        for (tunnel, node, raw), done in zip(targets, visits, strict=True)
        if done.got is not Got.OWN
    ]


def _visit_all(stage: Stage, targets: Sequence[_Target]) -> list[Visit]:
    context = visitor_context(stage.cluster.ca)
    questions = (Ask(1_000), Ask(1_000, upload=True))

    def one(target: _Target) -> Visit:
        tunnel, node, raw = target
        with stage.network.inside(VISITOR):
            return visit(stage, context, tunnel, node, questions, raw=raw)

    with ThreadPoolExecutor(_AT_ONCE) as visitors:
        return list(visitors.map(one, targets))


def disagreements(stage: Stage, *, closed: bool = False) -> list[str]:
    """Differences between registries and nodes, and anything that remains. `closed`: no tunnel is open any more."""
    expected = Counter[str]() if closed else Counter(tunnel.label for tunnel in stage.ledger.open_now())
    wrong = stage.guests.not_ended()
    held = {}
    for node in NODES:
        try:
            metrics = _metrics(stage, node)
        except OSError as error:
            wrong.append(f"{node} does not give its metrics: {error}")
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
    """Log files that hold a traceback."""
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

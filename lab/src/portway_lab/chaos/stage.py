"""The cluster that faults are done to: real processes in network namespaces, and how each fault is done and undone.

Here: starting it, faults, parts that ended by themselves. Not here: which faults happen when (plan.py), visitors
(visitors.py).
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from portway_lab.chaos.guests import Guests
from portway_lab.chaos.hostile_record import HostileRecord
from portway_lab.chaos.ledger import Ledger
from portway_lab.chaos.plan import CLIENTS, ETCD, GUESTS, HOSTILE, NODES, REGIONS, REGISTRIES, Fault, Kind
from portway_lab.cluster.clients import NamedTunnel, lost_ports, start_client, wait_tunnels
from portway_lab.cluster.network import Place, start_network
from portway_lab.cluster.portway import ETCD_PORT, RegistryPlan, start_cluster, start_etcd
from portway_lab.cluster.processes import END_WITHIN, Process, Processes, ProcessFailed, Restartable
from portway_lab.cluster.regions import DISTANCES, node_plan

VISITOR = "visitor"
PLACES = (
    *(Place(node, region) for node, region in REGIONS.items()),
    Place("registry", "fra"),
    Place("registry-2", "iad"),
    Place("etcd", "fra"),
    Place("client", "fra", access=2.0),
    Place("client-2", "iad", access=2.0),
    Place("client-3", "iad", access=2.0),
    *(Place(guest, "fra", access=2.0) for guest in GUESTS),
    Place(VISITOR, "nrt", access=2.0),
)
TUNNELS_EACH = 3
# A raw port is one of a region. The client with raw ports, and guests, stay in the region that has three nodes. One
# client never attaches to the hostile node, which is in another region.
RAW_REGION = "fra"
_CLIENT_FLAGS = {"client": ("--raw", "--region", RAW_REGION), "client-2": (), "client-3": ("--region", "iad")}
# Shorter than the defaults, so that each of these times passes in a short run.
_PORT_REST = 15.0
# The nearest node is gone back to within seconds. A client that was driven away many times in a run waits for half a
# minute at most.
_RETURNS = {"PORTWAY_RETURNS": "look=1,rest=4,ready=1,spread=2,pause=1"}
_NODE_FLAGS = (
    *("--resume-time", "5", "--stop-grace", "3", "--drain-grace", "5", "--port-rest", f"{_PORT_REST:g}"),
    # Twelve blocks: a node that is started again lets its old blocks rest and takes another. Not more, so that ports
    # are soon assigned again.
    *("--raw-ports", "20024-20623"),
    # All visitors have the same address, and many ask for names of closed tunnels.
    *("--connections-per-second", "1000", "--connection-burst", "1000"),
    *("--unknown-names-per-second", "1000", "--unknown-name-burst", "1000"),
)


class Stage:
    """All running parts. `say` is called with what happens, in words."""

    def __init__(self, processes: Processes, etcd: Path, say: Callable[[str], None]) -> None:
        self._processes = processes
        self._say = say
        # One thread for each node: orders for it arrive in sequence, however long a registry takes.
        self._orders = {node: ThreadPoolExecutor(1, thread_name_prefix=f"orders for {node}") for node in NODES}
        self._closing = threading.Event()
        self._paused: set[str] = set()
        self._down: set[str] = set()
        self.unexpected: list[str] = []
        self.folder = processes.folder
        self.network = start_network(processes, PLACES, DISTANCES)
        network = self.network
        started = start_etcd(processes, etcd, network.address(ETCD), network.prefix(ETCD))
        say("etcd is started")
        store = f"etcd:http://{network.address(ETCD)}:{ETCD_PORT}"
        registries = [
            RegistryPlan(host=network.address(name), prefix=network.prefix(name), store=store) for name in REGISTRIES
        ]
        self._lies = self.folder / "lies"  # the hostile node lies while it exists
        record = self.folder / "hostile.record"
        self.hostile = HostileRecord(record, HOSTILE)
        nodes = tuple(
            node_plan(network, place.name, place.region, *_NODE_FLAGS) for place in PLACES if place.name in NODES
        )
        hostile = (sys.executable, "-m", "portway_lab.chaos.hostile_node", str(self._lies), str(record))
        nodes = tuple(replace(node, program=hostile) if node.name == HOSTILE else node for node in nodes)
        self.cluster = start_cluster(processes, nodes, registries[0], tuple(registries[1:]))
        self.names = {place: node.plan.name for place, node in zip(NODES, self.cluster.nodes, strict=True)}
        self.listens = {place: node.listen for place, node in zip(NODES, self.cluster.nodes, strict=True)}
        running = {
            **dict(zip(NODES, (node.process for node in self.cluster.nodes), strict=True)),
            **dict(zip(REGISTRIES, self.cluster.registry_processes, strict=True)),
            ETCD: started,
        }
        self._parts = {name: Restartable(processes, process) for name, process in running.items()}
        self.admin_listens = {
            place: processes.wait_ready(node.process)["admin_listen"]
            for place, node in zip(NODES, self.cluster.nodes, strict=True)
        }
        say("registries and nodes are ready")
        self._clients: dict[str, Process] = {}
        self.tunnels: dict[str, NamedTunnel] = {}
        for client in CLIENTS:
            names = [f"{client}-tunnel-{number}" for number in range(TUNNELS_EACH)]
            self._clients[client] = start_client(
                processes, client, names, self.cluster.exports | _RETURNS, network.prefix(client), _CLIENT_FLAGS[client]
            )
            self.tunnels |= wait_tunnels(processes, self._clients[client])
            say(f"{client} has its tunnels")
        self.ledger = Ledger(_PORT_REST)
        self.ledger.opened(self.tunnels.values())
        self.guests = Guests(processes, network, self.cluster.exports, RAW_REGION, self.ledger, say)

    def ingress_nodes(self, tunnel: NamedTunnel, *, raw: bool) -> tuple[str, ...]:
        """The nodes at which the tunnel may be visited."""
        return tuple(node for node in NODES if not raw or REGIONS[node] == tunnel.region)

    def addresses(self) -> list[tuple[NamedTunnel, bool]]:
        """Every open tunnel with whether it is visited at its raw port; without raw ports that are lost."""
        tunnels, lost = self.ledger.open_now(), self.ledger.without_port()
        raw = [tunnel for tunnel in tunnels if tunnel.raw_port and tunnel.name not in lost]
        return [(tunnel, False) for tunnel in tunnels] + [(tunnel, True) for tunnel in raw]

    def begin(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL:
                self._down.add(fault.part)
                self._parts[fault.part].kill()
            case Kind.RESTART:
                self._down.add(fault.part)
                self._parts[fault.part].ask_to_end()
            case Kind.PAUSE:
                self._paused.add(fault.part)
                self._parts[fault.part].signal(signal.SIGSTOP)
            case Kind.DRAIN:
                self._orders[fault.part].submit(self._order, "drain", fault.part, insist=False)
            case Kind.PARTITION | Kind.DEAF:
                self.network.cut(fault.part, fault.other, both_ways=fault.kind is Kind.PARTITION)
            case Kind.LIE:
                self._lies.touch()
            case Kind.OPEN | Kind.VANISH:
                self.guests.come(fault.part)

    def end(self, fault: Fault) -> None:
        part = fault.part
        match fault.kind:
            case Kind.KILL | Kind.RESTART:
                # A part that is still stopping after SIGTERM is waited for.
                if not self._parts[part].wait_end(END_WITHIN):
                    self.unexpected.append(f"{part} did not end within {END_WITHIN:.0f} s of SIGTERM")
                self._parts[part].begin()
                self._down.discard(part)
            case Kind.PAUSE:
                self._parts[part].signal(signal.SIGCONT)
                self._paused.discard(part)
            case Kind.DRAIN:
                self._orders[part].submit(self._order, "serve", part, insist=True)
            case Kind.PARTITION | Kind.DEAF:
                self.network.mend(part, fault.other, both_ways=fault.kind is Kind.PARTITION)
            case Kind.LIE:
                self._lies.unlink()
            case Kind.OPEN | Kind.VANISH:
                self.guests.leave(part, killed=fault.kind is Kind.VANISH)

    def supervise(self) -> None:
        """Start a part again that has ended by itself, as a service manager does. If it was ready, its end is
        `unexpected`."""
        self.guests.supervise()
        clients = [*self._clients.values(), *self.guests.present()]
        self.ledger.lost_ports(port for client in clients for port in lost_ports(client))
        for name, part in self._parts.items():
            if name in self._down or name in self._paused:
                continue
            if not part.ended():
                continue
            what = f"{name} ended by itself ({part.process.failure('ended')})"
            if name == ETCD or part.was_ready():
                self.unexpected.append(what)
            self._say(f"{what.partition(';')[0]}: started again")
            part.begin()
        for name, client in self._clients.items():
            if client.ended() and name not in self._down:
                self._down.add(name)
                self.unexpected.append(f"{name} ended by itself ({client.failure('ended')})")

    def end_clients(self) -> None:
        """SIGTERM to all three clients: they close their tunnels."""
        self.ledger.released(self.tunnels, time.monotonic())
        for name, client in self._clients.items():
            self._down.add(name)
            client.popen.terminate()
        for client in self._clients.values():
            client.popen.wait(END_WITHIN)
        self.ledger.ended(self.tunnels)

    def close(self) -> None:
        """Resume paused processes, which would not receive SIGTERM, and stop giving orders."""
        for name in self._paused:
            self._parts[name].signal(signal.SIGCONT)
        self._closing.set()
        for orders in self._orders.values():
            orders.shutdown(cancel_futures=True)

    def _order(self, order: str, part: str, *, insist: bool) -> None:
        """Give an order about a node to any registry that answers; with `insist`, repeat it until one does."""
        while not self._closing.is_set():
            for place, registry in zip(REGISTRIES, self.cluster.registries, strict=True):
                try:
                    words = ("node", order, self.names[part])
                    self.cluster.ask(*words, prefix=self.network.prefix(place), registry=registry)
                except (ProcessFailed, subprocess.TimeoutExpired) as error:
                    self._say(f"{place} was not asked to {order} {part}: {str(error)[-120:]}")
                else:
                    return
            if not insist:
                return

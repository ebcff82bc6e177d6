"""Program: how fast a registry that knows 1,000 nodes answers Locate, by distance and with learned round trips.

usage: python -m portway_lab.bench.locate [--seconds N] [--nodes N] [--tunnels N]

The registry is a process on one core, its callers are this process on another; "placement" is the choice of candidates
alone, in this process; "announced anew" is while a node announces tunnels that the store does not have, one session for
each ten. Prints a line for each: answers per second, median and 99th percentile in milliseconds, and for
the registry the answers per second of its CPU time, which is the figure to compare on a machine that is not idle.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import grpc
from portway_geo.position import Position
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.discovery_pb2 import LocateRequest, ReportRequest, RoundTrip
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.types_pb2 import NODE_STATE_READY, NodeInfo
from portway_registry.placement.order import best_candidates
from portway_registry.placement.placed_nodes import placed_node
from portway_registry.placement.places import Places
from portway_registry.placement.reports import MAX_IN_A_REPORT
from portway_registry.placement.round_trips import NOTHING, QUORUM, Measurement, RoundTrips
from portway_registry.state import keys
from portway_registry.store.embedded import EmbeddedStore
from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import Pki, bearer, channel, client_of, loopback_geoip, node_info

from portway_lab.bench.usage import cpu_seconds
from portway_lab.cluster.processes import Processes

_PROGRAM: Final = Path(sys.executable).parent / "portway-registry"
_CHANNELS: Final = 4
_IN_FLIGHT: Final = 8  # enough that the registry always has a request to answer
_REGIONS: Final = 50
_TUNNELS_OF_A_SESSION: Final = 10
_KEEP_ALIVE: Final = 5.0  # seconds between keep-alives, as a node sends them


def nodes(number: int) -> list[NodeInfo]:
    """`number` nodes in fifty regions on all continents, with different loads."""
    rng = random.Random(1)
    places = [(rng.uniform(-55, 70), rng.uniform(-180, 180)) for _ in range(_REGIONS)]
    return [
        NodeInfo(
            name=f"r{i % _REGIONS}-{i}",
            region=f"r{i % _REGIONS}",
            host="192.0.2.1",
            port=443,
            server_name=f"r{i % _REGIONS}-{i}.node.portway.internal",
            state=NODE_STATE_READY,
            latitude=places[i % _REGIONS][0],
            longitude=places[i % _REGIONS][1],
            visits=rng.randrange(8_000),
        )
        for i in range(number)
    ]


async def _fill(path: Path, known: list[NodeInfo]) -> None:
    store = EmbeddedStore(path, on_failure=lambda error: None)
    for node in known:
        await store.put(keys.node(node.name), node.SerializeToString())
    await store.close()


async def _repeated(pid: int, seconds: float, ask: Callable[[int], Awaitable[object]]) -> str:
    """Calls `ask` from eight tasks for `seconds`; the line to print. `pid` is the registry's."""
    used = cpu_seconds([pid])
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def asking(number: int) -> None:
        while (began := time.perf_counter()) < until:
            await ask(number)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*map(asking, range(_IN_FLIGHT)))
    line = _line(took, time.perf_counter() - began)
    return f"{line}; {len(took) / (cpu_seconds([pid]) - used):,.0f} a second of its CPU time"


def _line(took: list[float], lasted: float) -> str:
    percentiles = statistics.quantiles(took, n=100)
    rate, median, high = len(took) / lasted, percentiles[49] * 1000, percentiles[98] * 1000
    return f"{rate:8,.0f} a second, {median:6.2f} ms median, {high:6.2f} ms 99th"


async def _over_grpc(folder: Path, pki: Pki, registry: str, mesh: str, pid: int, seconds: float, tunnels: int) -> None:
    ca = folder / "pki" / "ca.crt"
    admin_token = (folder / "admin-token").read_text().strip()
    channels = [channel(registry, ca) for _ in range(_CHANNELS)]
    stubs = [DiscoveryStub(one) for one in channels]
    session_key = os.urandom(32)
    admin, shown = AdminStub(channels[0]), bearer(admin_token)
    await admin.SetTenantQuota(admin_pb2.SetTenantQuotaRequest(name="bench", max_tunnels=1_000_000), metadata=shown)
    request = admin_pb2.CreateTokenRequest(tenant="bench", role=admin_pb2.ROLE_CLIENT)
    tokens = [(await admin.CreateToken(request, metadata=shown)).token for _ in range(QUORUM)]

    async def locate(number: int) -> object:
        return await stubs[number % _CHANNELS].Locate(
            LocateRequest(session_key=session_key), metadata=bearer(tokens[0])
        )

    await _repeated(pid, 1.0, locate)  # fills the caches
    print("Locate, by distance          ", await _repeated(pid, seconds, locate), flush=True)
    nearest = (
        await stubs[0].Locate(LocateRequest(session_key=session_key, limit=32), metadata=bearer(tokens[0]))
    ).candidates
    for first in range(0, len(nearest), MAX_IN_A_REPORT):
        some = nearest[first : first + MAX_IN_A_REPORT]
        trips = [RoundTrip(node=one.node.name, ms=max(0.1, one.expected_rtt_ms * 0.9)) for one in some]
        for token in tokens:
            await stubs[0].Report(ReportRequest(round_trips=trips), metadata=bearer(token))
    answer = await stubs[0].Locate(LocateRequest(session_key=session_key, limit=32), metadata=bearer(tokens[0]))
    print(f"  learned: {sum(one.learned for one in answer.candidates)} of {len(answer.candidates)} candidates")
    print("Locate, learned round trips  ", await _repeated(pid, seconds, locate), flush=True)
    announce = await _announcement(mesh, pki, channels[0], tokens[0], tunnels)
    async with asyncio.TaskGroup() as tasks:
        announcing = tasks.create_task(announce)
        print("Locate, announced anew       ", await _repeated(pid, seconds, locate), flush=True)
    print(f"  {announcing.result()}", flush=True)
    for one in channels:
        await one.close()


async def _announcement(
    mesh: str, pki: Pki, public: grpc.aio.Channel, token: str, number: int
) -> Coroutine[Any, Any, str]:
    """Signs what a node announces. The result announces it, and is a line that says how long that took."""
    clients = [await client_of(public, token) for _ in range(number // _TUNNELS_OF_A_SESSION)]
    tunnels = [client.tunnel("bench-1") for client in clients for _ in range(_TUNNELS_OF_A_SESSION)]

    async def announce() -> str:
        async with NodeStream(mesh, pki, node_info("bench-1")) as node:
            began = time.perf_counter()
            alive = asyncio.ensure_future(_kept_alive(node))
            await node.announce(*tunnels, of=clients, full=True)
            took = time.perf_counter() - began
            alive.cancel()
        return f"{len(tunnels):,} tunnels were taken up in {took:.1f} s, {len(node.evicted)} were refused"

    return announce()


async def _kept_alive(node: NodeStream) -> None:
    """On a busy machine taking up so many takes longer than a node may be silent."""
    while True:
        await asyncio.sleep(_KEEP_ALIVE)
        await node.keep_alive()


def _placement(seconds: float, known: list[NodeInfo]) -> None:
    """Clients at 10,000 positions with as many prefixes, more than any cache holds."""
    placed = [placed_node(node) for node in known]
    places = Places(placed)
    rng = random.Random(2)
    clients = [(Position(rng.randrange(-55, 70), rng.randrange(-180, 180)), os.urandom(3)) for _ in range(10_000)]
    trips = RoundTrips()
    for _, prefix in clients:
        race = [Measurement(node, rng.uniform(200, 400)) for node in rng.sample(placed, 3)]
        for token in range(QUORUM):
            trips.report(prefix, str(token), race, 0.0)
    for name, learns in (("by distance          ", False), ("learned round trips  ", True)):
        took: list[float] = []
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            position, prefix = rng.choice(clients)
            at = time.perf_counter()
            learned = trips.learned(prefix, 1.0) if learns else NOTHING
            best_candidates(places, position, limit=8, rng=rng, learned=learned)
            took.append(time.perf_counter() - at)
        print("placement,", name, _line(took, sum(took)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measure (%(default)s)")
    parser.add_argument("--nodes", type=int, default=1000, help="that the registry knows (%(default)s)")
    parser.add_argument("--tunnels", type=int, default=10_000, help="that are announced anew (%(default)s)")
    arguments = parser.parse_args()
    known = nodes(arguments.nodes)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name, Processes(Path(name)) as processes:
        folder = Path(name)
        pki = Pki(folder / "pki")
        asyncio.run(_fill(folder / "registry.db", known))
        registry = processes.start(
            "registry",
            [
                *("taskset", "--cpu-list", str(cores[0])),
                *(_PROGRAM, "serve", "--listen", "127.0.0.1:0", "--mesh-listen", "127.0.0.1:0"),
                *("--tls-cert", folder / "pki" / "registry.crt", "--tls-key", folder / "pki" / "registry.key"),
                *("--cluster-ca", folder / "pki" / "ca.crt", "--store", f"embedded:{folder / 'registry.db'}"),
                *("--check-addresses", "no"),
                *("--admin-token-file", folder / "admin-token", "--geoip", loopback_geoip(folder / "geoip.mmdb")),
            ],
            ready_flag=True,
        )
        addresses = processes.wait_ready(registry)
        os.sched_setaffinity(0, {cores[-1]})
        listen, mesh = addresses["listen"], addresses["mesh_listen"]
        asyncio.run(_over_grpc(folder, pki, listen, mesh, registry.pid, arguments.seconds, arguments.tunnels))
    _placement(arguments.seconds, known)


if __name__ == "__main__":
    main()

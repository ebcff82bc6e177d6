"""Sessions that come to a node together, with all of their tunnels: how long it takes, and what a tunnel in use feels.

usage: python -m portway_lab.bench.rehomed HOST:PORT NODE SESSIONS TUNNELS_EACH, configured by the environment as any
client is: prints {"signed"} when all statements are signed; after a line on stdin the sessions come, and it prints
{"seconds"} when the node has answered the last BIND. They leave at the end.

The statements are signed beforehand and the sessions have no data lanes: what is measured is the node, not 200 clients
on the same machine.
"""

import asyncio
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import portway
from portway_proto.v1.lane_pb2 import Bind, Presence
from portway_proto.wire.frames import FrameReader, FrameType, encode_frame
from portway_proto.wire.limits import LINK_ALPN, PROTOCOL_VERSION
from portway_proto.wire.statements import SigningKey
from portway_testkit.clusters.hand_grants import Grants, HandGrant
from portway_testkit.visitors.origins import TcpOrigin
from portway_testkit.visitors.siege import Download, endless
from portway_testkit.visitors.visiting import tls_context

from portway_lab.bench.measures import command
from portway_lab.bench.report import Goal
from portway_lab.bench.usage import cpu_seconds
from portway_lab.cluster.portway import Cluster

_WITHIN: Final = 2.0  # seconds
_SPEED_KEPT: Final = 0.8
# Seconds in which what the last round left is taken back.
_SETTLE: Final = 2.0
_QUIET_ROUNDS: Final = 3  # of half a second
_WAITS_FOR: Final = 60.0  # seconds, for the node's answers


def measure(cluster: Cluster, sessions: int, each: int, rounds: int) -> list[Goal]:
    """Medians over the rounds, with nothing else and beside a download. Raises RuntimeError when a tunnel is
    refused."""
    cluster.ask("tenant", "set-quota", "many", str(sessions * each))
    alone = [_one_round(cluster, sessions, each) for _ in range(rounds)]
    with (
        TcpOrigin(endless) as origin,
        portway.forward(origin.port, registry=cluster.registry, token=cluster.token, ca=cluster.ca) as tunnel,
        Download(tunnel, cluster.ca) as download,
    ):
        beside = [_one_round(cluster, sessions, each, download) for _ in range(rounds)]
    tunnels, note = f"{sessions * each} tunnels come to a node", f"in {sessions} sessions"
    return [
        Goal(f"{tunnels}, all served after", _median(alone, "seconds"), "s", _WITHIN, note=note),
        Goal("the node's processor for them", _median(alone, "cpu"), "s"),
        Goal("beside a download, all served after", _median(beside, "seconds"), "s"),
        Goal("that download, of its speed before", _median(beside, "speed_kept"), "x", _SPEED_KEPT, at_most=False),
    ]


@dataclass(frozen=True, slots=True)
class _Round:
    seconds: float
    cpu: float  # seconds
    speed_kept: float  # of the download, if there is one


def _median(rounds: list[_Round], figure: str) -> float:
    return float(statistics.median(getattr(one, figure) for one in rounds))


def _one_round(cluster: Cluster, sessions: int, each: int, download: Download | None = None) -> _Round:
    # A token of its own: a node checks no more than some 25,000 signatures of one token at once.
    token = cluster.ask("token", "create", "--tenant", "many")["token"]
    node = cluster.nodes[0]
    arguments = (node.listen, node.plan.name, str(sessions), str(each))
    with _load(arguments, {**os.environ, **cluster.exports, "PORTWAY_TOKEN": token}) as load:
        assert load.stdin is not None
        quiet = 0.0 if download is None else statistics.median(download.speed() for _ in range(_QUIET_ROUNDS))
        before = cpu_seconds([node.process.pid])
        with _speeds(download) as speeds:
            load.stdin.write("\n")
            load.stdin.flush()
            seconds = _read(load, "seconds")
        cpu = cpu_seconds([node.process.pid]) - before
    time.sleep(_SETTLE)
    return _Round(seconds, cpu, statistics.mean(speeds) / quiet if speeds else 1.0)


@contextmanager
def _speeds(download: Download | None) -> Iterator[list[float]]:
    """The speeds of the download within the block, if there is one."""
    speeds: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while download is not None and not over.is_set():
            speeds.append(download.speed())

    watching = threading.Thread(target=watch, name="watch the download")
    watching.start()
    try:
        yield speeds
    finally:
        over.set()
        watching.join()


@contextmanager
def _load(arguments: tuple[str, ...], environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    load = subprocess.Popen(
        command("rehomed", *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        _read(load, "signed")
        yield load
    finally:
        load.communicate(timeout=_WAITS_FOR)


def _read(load: "subprocess.Popen[str]", name: str) -> float:
    assert load.stdout is not None
    line = load.stdout.readline()
    if not line:
        raise RuntimeError("the sessions were not taken; their message is above")
    return float(json.loads(line)[name])


@dataclass(frozen=True, slots=True)
class _Session:
    """What one session says: its HELLO, and after the node's WELCOME its presence and all of its BINDs."""

    hello: bytes
    tunnels: bytes
    count: int

    @classmethod
    def sign(cls, grant: HandGrant, node: str, certificate: bytes, count: int) -> "_Session":
        epoch = time.time_ns() // 1_000_000
        claims = [grant.claim(SigningKey(), epoch, node) for _ in range(count)]
        presence = Presence(statement=grant.present(node, *claims).encoded)
        binds = [Bind(request=number, claim=claim.encoded) for number, claim in enumerate(claims, start=1)]
        hello = grant.hello(node, certificate, version=PROTOCOL_VERSION)
        return cls(
            encode_frame(FrameType.HELLO, hello.SerializeToString()),
            b"".join(
                (
                    encode_frame(FrameType.PRESENCE, presence.SerializeToString()),
                    *(encode_frame(FrameType.BIND, bind.SerializeToString()) for bind in binds),
                )
            ),
            count,
        )

    async def come(self, host: str, port: int, name: str, tls: ssl.SSLContext) -> asyncio.StreamWriter:
        """Returns the lane, once every BIND is answered. Raises SystemExit when one is refused."""
        lane, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
        writer.write(self.hello)
        frames, bound = FrameReader(), 0
        while bound < self.count:
            received = await lane.read(65_536)
            if not received:
                raise SystemExit("the node has closed a session")
            for frame_type, payload in frames.feed(received):
                if frame_type == FrameType.WELCOME:
                    writer.write(self.tunnels)
                elif frame_type == FrameType.BOUND:
                    bound += 1
                elif frame_type in (FrameType.BIND_REFUSED, FrameType.FAIL):
                    raise SystemExit(f"the node refuses: {bytes(payload)!r}")
        return writer


async def _come(listen: str, node: str, sessions: int, each: int) -> None:
    host, _, port = listen.rpartition(":")
    name = f"{node}.node.portway.internal"
    tls = tls_context(Path(os.environ["PORTWAY_CA"]), LINK_ALPN)
    with socket.create_connection((host, int(port))) as sock, tls.wrap_socket(sock, server_hostname=name) as shown:
        certificate = shown.getpeercert(binary_form=True)
    assert certificate is not None
    grants = Grants(os.environ).several(sessions)
    signed = [_Session.sign(grant, node, certificate, each) for grant in grants]
    print(json.dumps({"signed": len(signed)}), flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    lanes = await asyncio.gather(*(one.come(host, int(port), name, tls) for one in signed))
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
    for lane in lanes:
        lane.write(encode_frame(FrameType.GOAWAY, b""))
        lane.close()


if __name__ == "__main__":
    match sys.argv[1:]:
        case [listen, node, sessions, each]:
            os.nice(10)  # clients are elsewhere
            asyncio.run(_come(listen, node, int(sessions), int(each)))
        case _:
            sys.exit(__doc__)

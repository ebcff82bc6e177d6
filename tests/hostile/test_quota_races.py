"""Programs of one tenant that open more tunnels at once than its quota allows."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import pytest
from portway import Tunnel
from portway_testkit.clusters.cluster import Cluster, NodePlan
from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import is_consistent, label_of, serves
from portway_testkit.waiting import PATIENCE, eventually

pytestmark = pytest.mark.timeout(120)

QUOTA = 2
REGIONS = ("fra", "par", "iad")


@dataclass
class Command:
    """`portway forward` with several targets; `urls` are those that it has printed so far."""

    process: "subprocess.Popen[str]"
    urls: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.readers = [
            Thread(target=_read, args=(self.process.stdout, self.urls)),
            Thread(target=_read, args=(self.process.stderr, self.errors)),
        ]
        for reader in self.readers:
            reader.start()

    def ended(self) -> int:
        code = self.process.wait(timeout=30)
        for reader in self.readers:
            reader.join()
        return code

    def close(self) -> None:
        self.process.kill()
        self.ended()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


def _read(lines: Iterator[str], into: list[str]) -> None:
    for line in lines:
        into.append(line.rstrip())


@pytest.fixture(params=["embedded", "etcd"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A node in each of three regions, none of which knows the tunnels of the others."""
    with ExitStack() as stack:
        store = "embedded:memory"
        if request.param == "etcd":
            store = f"etcd:{stack.enter_context(EtcdServer()).url}"
        plans = tuple(NodePlan(f"{region}-1", region) for region in REGIONS)
        yield stack.enter_context(Cluster(tmp_path, plans, store=store, settings={"max_tunnels": QUOTA}))


@pytest.fixture
def forward(cluster: Cluster) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(region: str, targets: Sequence[int], token: str) -> Command:
        arguments = [sys.executable, "-m", "portway", "forward", *map(str, targets), "--region", region]
        process = subprocess.Popen(
            arguments,
            env=os.environ | cluster.environment(token),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(Command(process))
        return started[-1]

    yield start
    for command in started:
        command.close()


def tunnel_of(url: str) -> Tunnel:
    host, _, port = url.removeprefix("https://").partition(":")
    return Tunnel(host, int(port or 443))


@pytest.mark.parametrize("regions", [REGIONS, ("fra",) * 3], ids=["three nodes", "one node"])
def test_as_many_as_the_quota_allows_live_on(
    cluster: Cluster, forward: Callable[..., Command], regions: tuple[str, ...]
) -> None:
    """Three commands of three tokens open two tunnels each: two tunnels are left, each of the others is told the
    number, and no command ends that has one."""
    with HttpOrigin() as one, HttpOrigin() as two:
        tokens = [cluster.token(tenant="racers") for _ in regions]
        commands = [forward(region, (one.port, two.port), token) for region, token in zip(regions, tokens, strict=True)]

        def left() -> list[Tunnel]:
            known = {tunnel.label for tunnel in cluster.admin.tunnels()}
            printed = [tunnel_of(url) for command in commands for url in command.urls]
            return [tunnel for tunnel in printed if label_of(tunnel) in known]

        def settled() -> bool:
            """Each command has been told of all tunnels that it does not have, and has ended if it has none."""
            tunnels = left()
            own = [sum(tunnel_of(url) in tunnels for url in command.urls) for command in commands]
            told = [any(f"{QUOTA} tunnels" in line for line in command.errors) for command in commands]
            ended = [command.process.poll() is not None for command in commands]
            return (
                sum(own) == QUOTA
                and all(told[number] == (count < 2) for number, count in enumerate(own))
                and all(ended[number] == (count == 0) for number, count in enumerate(own))
            )

        eventually(settled)
        survivors = left()
        eventually(lambda: is_consistent(cluster, *survivors))
        assert all(serves(tunnel, cluster.ca) for tunnel in survivors)
        for command in commands:
            own = [url for url in command.urls if tunnel_of(url) in survivors]
            if not own:
                assert command.ended() in (5, 7)
                continue
            assert command.process.poll() is None
            command.process.send_signal(signal.SIGTERM)
            assert command.ended() in ((0,) if len(own) == 2 else (5, 7))
    eventually(lambda: is_consistent(cluster))


def test_a_full_quota_is_told_before_anything_is_opened(
    cluster: Cluster, forward: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node is dialled for it, whichever token of the tenant asks; the command says the number and what to do."""
    # Nobody is refused while the store is away, as one that answers late is taken to be.
    monkeypatch.setattr("portway_registry.tunnels.quota._ANSWER_TIME", PATIENCE)
    with HttpOrigin() as one, HttpOrigin() as two:
        first = forward("fra", (one.port, two.port), cluster.token(tenant="full"))
        eventually(lambda: len(cluster.admin.tunnels()) == QUOTA)
        late = forward("par", (one.port,), cluster.token(tenant="full"))
        assert late.ended() == 5
        assert late.urls == []
        (told,) = late.errors
        assert f"tenant full may have {QUOTA} tunnels open at once" in told
        assert "close one" in told
        assert "tenant set-quota full" in told
        assert cluster.nodes["par-1"].metrics()["sessions"] == 0
        other = forward("par", (one.port,), cluster.token(tenant="other"))
        eventually(lambda: other.urls)
        first.process.send_signal(signal.SIGTERM)
        assert first.ended() == 0
        eventually(lambda: [tunnel.tenant for tunnel in cluster.admin.tunnels()] == ["other"])
        again = forward("par", (one.port,), cluster.token(tenant="full"))
        eventually(lambda: again.urls)

"""How many answers a second one core gives, asked by dnsperf."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from portway_relay.config import NodeLimits
from portway_testkit.clusters.cluster import DOMAIN, Cluster, NodePlan
from portway_testkit.clusters.dns_mesh import BELIEVED, dns_plans, named_at_all
from portway_testkit.processes.running_program import needed
from portway_testkit.waiting import eventually

SECONDS = 2
# Of one core. A tunnel's name is asked for by its visitor's resolver once in 30 s.
ENOUGH = 4_000


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One node, which answers one network as fast as it can."""
    (plan,) = dns_plans(["fra-1"])
    limits = NodeLimits(dns_answers_per_second=1_000_000, dns_answer_burst=1_000_000)
    plans = (NodePlan(plan.name, plan.region, limits, settings=plan.settings),)
    with Cluster(tmp_path, plans, settings=BELIEVED) as cluster:
        eventually(lambda: named_at_all(cluster, "fra-1"))
        yield cluster


def test_enough_answers_for_one_core(cluster: Cluster, tmp_path: Path) -> None:
    """By the processor's time of the node's thread: a busy machine must not fail the test, a slow server must."""
    names = tmp_path / "names"
    names.write_text("".join(f"l{number:015d}.fra.{DOMAIN} A\n" for number in range(5_000)))
    server = cluster.nodes["fra-1"].dns
    command = [needed("dnsperf"), "-s", server.host, "-p", str(server.port), "-d", str(names), "-l", str(SECONDS)]
    command += ["-c", "4", "-q", "50", "-e"]
    clock = time.pthread_getcpuclockid(cluster.thread_id)
    before = time.clock_gettime(clock)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    used = time.clock_gettime(clock) - before
    completed = int(re.findall(r"Queries completed:\s+(\d+)", ended.stdout)[0])
    codes = re.findall(r"Response codes:\s+(.*)", ended.stdout)
    print(f"{completed / SECONDS:.0f} answers a second; {completed / used:.0f} for each second of the processor")
    assert codes == [f"NOERROR {completed} (100.00%)"]
    assert completed / used >= ENOUGH

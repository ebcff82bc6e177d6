"""`portway-admin doctor` on a cluster of the test's, and a resolver that knows the cluster's names."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from click.testing import CliRunner
from portway_registry.admin_cli.cli import main

from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fakes.name_server import NameServers, Zone


@contextmanager
def resolver(*records: str) -> Iterator[str]:
    """A resolver that knows these names (`NAME TYPE DATA`) and no delegation; HOST:PORT."""
    zone = Zone({".": ["SOA a. b. 1 1 1 1 1"], **{one.split()[0]: [one.partition(" ")[2]] for one in records}})
    started: list[str] = []
    running, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with NameServers({"127.0.0.5": zone}) as servers:
            started.append(f"127.0.0.5:{servers.port}")
            running.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="resolver")
    thread.start()
    try:
        assert running.wait(10)
        yield started[0]
    finally:
        over.set()
        thread.join()


class Doctor:
    """`portway-admin doctor` for a cluster, as a program reads it."""

    def __init__(self, cluster: Cluster, *options: str) -> None:
        token = cluster.registry_config.admin_token_file
        self.given = ["--registry", cluster.registry_address, "--ca", str(cluster.ca), "--token-file", str(token)]
        self.options = options

    def __call__(self) -> tuple[int, dict[str, Any]]:
        """The exit code, and what it says."""
        result = CliRunner().invoke(main, [*self.given, "--json", "doctor", *self.options], catch_exceptions=False)
        return result.exit_code, json.loads(result.stdout)

    def text(self) -> str:
        """What it says to a person."""
        result = CliRunner().invoke(main, [*self.given, "doctor", *self.options], catch_exceptions=False)
        return result.stdout


def kinds(told: dict[str, Any]) -> set[tuple[str, str]]:
    """The kind and the subject of each finding."""
    return {(one["kind"], one["subject"]) for check in told["checks"] for one in check["findings"]}

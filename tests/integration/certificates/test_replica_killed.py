"""The replica that obtains certificates dies in the middle of an order: another one goes on."""

import os
import signal
import sys
from pathlib import Path
from typing import Final

from portway_testkit.clusters.etcd import EtcdServer
from portway_testkit.clusters.node_stream import stream
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.clusters.registry import Pki, running
from portway_testkit.processes.running_program import RunningProgram

FRA: Final = "fra.tunnels.example"
_SETTINGS: Final = (
    *("tls_cert", "tls_key", "cluster_ca", "store", "geoip", "admin_token_file"),
    *("domain", "acme_directory", "acme_ca", "acme_key_file", "check_addresses", "lease_seconds"),
)


async def test_another_replica_goes_on(etcd: EtcdServer, pki: Pki, tmp_path: Path, pebble: Pebble) -> None:
    """Once the turn of the one before has run out. Its order is left, and another one is made."""
    # Its turn is lost with the lease, also in a pause of a busy machine.
    short = pebble.config(pki, tmp_path, store=f"etcd:{etcd.url}", lease_seconds=6)
    file = tmp_path / "stalled.toml"
    lines = [f'{name} = "{getattr(short, name)}"' for name in _SETTINGS]
    file.write_text("\n".join((*lines, 'listen = "127.0.0.1:0"', 'mesh_listen = "127.0.0.1:0"')))
    command = [sys.executable, "-m", "portway_testkit.clusters.stalled_replica", str(file)]
    with RunningProgram(command, dict(os.environ), tmp_path / "stalled.log") as first:
        assert first.line().startswith("serves ")
        dns = pebble.publisher()
        # A node that says nothing is known for as long as the test takes.
        config = pebble.config(pki, tmp_path, store=f"etcd:{etcd.url}", lease_seconds=60)
        async with running(config, dns) as second, stream(second, pki) as node:
            assert first.line() == f"publishes _acme-challenge.{FRA}"
            assert dns.published == []
            first.stop(signal.SIGKILL)
            await node.until(lambda: FRA in node.zones)
    assert {name for name, _ in dns.published} == {f"_acme-challenge.{FRA}"}

"""`portway-admin node watch` and `tunnel watch`: a process that prints each change the moment it happens."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING, TunnelInfo
from portway_testkit.clusters.admin_stage import Stage
from portway_testkit.waiting import PATIENCE

ADMIN = "from portway_registry.admin_cli.cli import main; main()"
T = TypeVar("T")


class Watch:
    """The process, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def change(self) -> tuple[str, Any]:
        """Its next line as JSON: the kind, and the rest."""
        told = json.loads(self.line())
        return told.pop("kind"), told

    def interrupt(self) -> tuple[int, str, str]:
        """As Ctrl-C does it: the exit code, and what was still printed."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


@contextmanager
def watching(stage: Stage, *arguments: str) -> Iterator[Watch]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PORTWAY_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", ADMIN, "--registry", stage.address, "--ca", str(stage.pki.ca)),
            *("--token-file", str(stage.token_file), *arguments),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONUNBUFFERED": ""},
    )
    try:
        yield Watch(process)
    finally:
        process.kill()
        process.communicate()


def test_changes_are_objects_for_programs(stage: Stage) -> None:
    """What is known, that this was all, then each change at once, a line each; Ctrl-C ends it with 130."""
    known, new = stage.tunnel("fra-1"), stage.tunnel("fra-1", epoch=2)
    node = stage.node("fra-1", known)
    with watching(stage, "tunnel", "watch", "--json") as watch:
        kind, told = watch.change()
        assert (kind, told["tunnel"]["label"]) == ("known", known.label)
        assert watch.change() == ("synced", {})
        changed = tunnel_info_of(known, opened_at_ms=2)
        stage.run(lambda: node.announce(new, changed, of=list(stage.clients.values())))
        changes = dict(watch.change() for _ in range(2))
        assert changes["added"]["tunnel"]["label"] == new.label
        assert changes["changed"]["tunnel"]["opened_at_ms"] == 2
        stage.run(lambda: node.announce(withdrawn=(new,)))
        kind, told = watch.change()
        assert (kind, told["tunnel"]["label"]) == ("removed", new.label)
        assert watch.interrupt() == (130, "", "")


def tunnel_info_of(tunnel: TunnelInfo, **changed: Any) -> TunnelInfo:
    """The same binding with something else about it."""
    copy = TunnelInfo()
    copy.CopyFrom(tunnel)
    copy.MergeFrom(TunnelInfo(**changed))
    return copy


def test_changes_are_lines_for_people(stage: Stage) -> None:
    """The time, what happened, and to whom."""
    node = stage.node("fra-1")
    with watching(stage, "nodes", "watch") as watch:
        time, *words = watch.line().split()
        assert time.endswith("Z")
        assert words[:5] == ["known", "fra-1", "fra", "127.0.0.1:443", "ready"]
        stage.run(lambda: node.keep_alive(state=NODE_STATE_DRAINING))
        assert watch.line().split()[1:6] == ["changed", "fra-1", "fra", "127.0.0.1:443", "draining"]
        stage.run(node.leave)
        assert watch.line().split()[1:3] == ["removed", "fra-1"]
        assert watch.interrupt()[0] == 130


def test_a_registry_that_stops_ends_the_watch_with_three(stage: Stage) -> None:
    """Whoever watches is told that nothing more will come, and from where it did."""
    stage.node("fra-1")
    with watching(stage, "node", "watch") as watch:
        assert "known" in watch.line()
        stage.stop_registry()
        _, err = watch.process.communicate(timeout=PATIENCE)
    assert watch.process.returncode == 3
    assert f"cannot reach the registry at {stage.address}" in err


def test_each_change_of_the_zone_is_exported(stage: Stage) -> None:
    """For a DNS provider: the whole list, each time that it is another one; nothing is said in between."""
    stage.node("fra-1", addresses=["192.0.2.1"], zones=["fra.tunnels.example"])
    with watching(stage, "dns", "export", "--watch", "--json") as watch:
        first = json.loads(watch.line())
        assert {one["name"] for one in first["records"]} == {
            "tunnels.example",
            "fra.tunnels.example",
            "*.fra.tunnels.example",
        }
        stage.ask("dns", "record", "add", "a", "TXT", "x")
        second = json.loads(watch.line())
        added = [one for one in second["records"] if one not in first["records"]]
        assert added == [{"name": "a.tunnels.example", "type": "TXT", "ttl": 300, "data": '"x"'}]
        assert watch.interrupt() == (130, "", "")

"""portway-admin as people and programs call it, and a real registry to answer, for tests that block."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner, Result
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_proto.v1.types_pb2 import TunnelInfo
from portway_registry.acme.publisher import Publisher
from portway_registry.admin_cli.cli import main
from portway_registry.server import Registry

from portway_testkit.clusters.node_stream import NodeStream
from portway_testkit.clusters.registry import Pki, bearer, channel, client_of, node_info
from portway_testkit.signers import AnnouncedClient
from portway_testkit.waiting import eventually

T = TypeVar("T")


class Stage:
    """A registry on a thread of its own, nodes of its, and the command line."""

    def __init__(self, pki: Pki, folder: Path, publisher: Publisher | None = None, **settings: Any) -> None:
        """settings: fields of the registry's Config."""
        self.pki = pki
        self.token_file = folder / "admin-token"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        # Nodes live on while a command starts, also where that takes half a minute.
        config = pki.config(folder, **{"lease_seconds": 120, **settings})
        self._registry = Registry(config, publisher=publisher)
        self._nodes: list[NodeStream] = []
        self.clients: dict[str, AnnouncedClient] = {}  # by tenant
        self.token_ids: dict[str, str] = {}  # by tenant

    def start(self) -> None:
        self._thread.start()
        self.run(self._registry.start)

    def stop(self) -> None:
        for node in self._nodes:
            self.run(node.close)
        self.stop_registry()
        self.run(self._loop.shutdown_default_executor)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stop_registry(self) -> None:
        """May be called again."""
        self.run(self._registry.stop)

    def run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Call it on the registry's loop, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(function(), self._loop).result(20)

    @property
    def address(self) -> str:
        return self._registry.address

    def tunnel(self, node: str, tenant: str = "demo", **more: Any) -> TunnelInfo:
        """A tunnel of a client of this tenant at a node, which is to announce it."""

        async def client() -> AnnouncedClient:
            shown = bearer(self.token_file.read_text().strip())
            async with channel(self.address, self.pki.ca) as public:
                request = admin_pb2.CreateTokenRequest(tenant=tenant, role=admin_pb2.ROLE_CLIENT)
                made = await AdminStub(public).CreateToken(request, metadata=shown)
                self.token_ids[tenant] = made.info.id
                return await client_of(public, made.token)

        if tenant not in self.clients:
            self.clients[tenant] = self.run(client)
        return self.clients[tenant].tunnel(node, **more)

    def node(self, name: str, *tunnels: TunnelInfo, clock: int = 0, **info: Any) -> NodeStream:
        """Register a node that holds these tunnels; it stays until the end of the test. `clock`: how many seconds its
        clock is ahead."""

        async def register() -> NodeStream:
            node = NodeStream(self._registry.mesh_address, self.pki, node_info(name, **info), clock=clock)
            self._nodes.append(node)
            await node.open()
            if tunnels:
                await node.announce(*tunnels, of=list(self.clients.values()))
            await node.until(lambda: name in node.peers)
            return node

        return self.run(register)

    def say(self, *arguments: str, **environment: str) -> Result:
        """The command as a person types it, as an admin, with what it printed and its exit code."""
        given = ["--registry", self.address, "--ca", str(self.pki.ca), "--token-file", str(self.token_file)]
        return call(*given, *arguments, **environment)

    def ask(self, *arguments: str) -> Any:
        """The command as a program calls it: what its one line of JSON says."""
        result = self.say("--json", *arguments)
        assert result.exit_code == 0, result.output
        (line,) = result.stdout.splitlines()
        return json.loads(line)

    def until_unused(self, authority: str) -> None:
        """Wait until the registry shows that it has no certificate of this CA any more: it reads its own record, too,
        where all do."""

        def is_unused() -> bool:
            (found,) = (one for one in self.ask("ca", "list")["authorities"] if one["id"] == authority)
            return not found["used_by_replicas"]

        eventually(is_unused)


def call(*arguments: str, **environment: str) -> Result:
    """The command with nothing of the environment but what is given."""
    unset = dict.fromkeys(("PORTWAY_REGISTRY", "PORTWAY_ADMIN_TOKEN", "PORTWAY_CA"))
    return CliRunner().invoke(main, arguments, env=unset | environment, catch_exceptions=False)

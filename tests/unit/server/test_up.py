"""What root does in a folder that is the relay's, which may have been broken into."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_runtime.endpoints import Endpoint
from portway_server import up as up_module
from portway_server.errors import CannotWrite
from portway_server.up import Up

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")

NOBODY = 65_534
INVITATION = "pwj_abc_" + "a" * 32


class Calls:
    async def invite(self, region: str, node: str) -> str:
        return INVITATION

    async def join(self, node: str, region: str, csr: bytes) -> NodeCertificate:
        return NodeCertificate(certificate=b"certificate", cluster_ca=b"ca")


@asynccontextmanager
async def registry(*_: Any) -> AsyncIterator[Calls]:
    yield Calls()


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("calling", "operators_calls"):
        monkeypatch.setattr(up_module, name, registry)
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    return tmp_path / "portway-relay"


async def join(state: Path) -> None:
    relay = SimpleNamespace(state_dir=state, region="fra", name="fra-1")
    own = SimpleNamespace(registry_user=None, relay_user="nobody")
    config: Any = SimpleNamespace(own=own, relay=relay, registry=None)
    up = Up(config, {}, log=2, on_ready=lambda _: None, on_failure=lambda _: None)
    served: Any = SimpleNamespace(listen=Endpoint("127.0.0.1", 7400))
    await up._join(served, "token")


def test_the_relay_owns_what_it_joined_with(state: Path) -> None:
    """Also where an operator deleted the folder, to have the node back."""
    asyncio.run(join(state))
    assert (state / "current" / "node.crt").read_bytes() == b"certificate"
    assert {one.lstat().st_uid for one in (state, *state.rglob("*"))} == {NOBODY}
    assert state.stat().st_mode & 0o777 == 0o700


def test_a_link_in_the_relay_s_folder_leads_to_nothing_that_it_cannot_write_itself(state: Path, tmp_path: Path) -> None:
    system = tmp_path / "etc"
    system.mkdir(mode=0o755)
    state.mkdir()
    (state / "abc").symlink_to(system)
    os.chown(state, NOBODY, NOBODY)
    with pytest.raises(CannotWrite):
        asyncio.run(join(state))
    assert list(system.iterdir()) == []
    assert (os.geteuid(), os.getegid()) == (0, 0)

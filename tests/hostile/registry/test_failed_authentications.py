"""Strangers who try tokens without end."""

import asyncio
import time

import grpc
import pytest
from grpc import StatusCode
from portway_proto.v1 import admin_pb2
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_registry.access import failed_authentications
from portway_registry.server import Registry
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.registry import Pki, bearer, channel

CALLS = 1_000
GATHERED = 1.0  # seconds
UNKNOWN = "pw_nobody_" + "a" * 32


@pytest.fixture(autouse=True)
def gathered_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second stands for the minute."""
    monkeypatch.setattr(failed_authentications, "_GATHERED", GATHERED)


async def audited(admin: AdminCaller) -> list[tuple[str, str, str]]:
    answer = await admin.stub.ListAudit(admin_pb2.ListAuditRequest(page_size=1_000), metadata=admin.shown)
    return [(one.actor, one.action, one.target) for one in answer.entries]


async def test_guessed_tokens_are_counted_and_not_listed_one_by_one(
    registry: Registry, pki: Pki, admin: AdminCaller
) -> None:
    """An operator sees from where and how often; a thousand calls within a minute are one entry for each reason,
    or two."""
    async with channel(registry.address, pki.ca) as guessing:
        await _guess(guessing, admin)


async def _guess(guessing: grpc.aio.Channel, admin: AdminCaller) -> None:
    await admin.stub.CreateToken(
        admin_pb2.CreateTokenRequest(tenant="demo", role=admin_pb2.ROLE_CLIENT), metadata=admin.shown
    )

    async def guess() -> None:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await DiscoveryStub(guessing).Locate(LocateRequest(), metadata=bearer(UNKNOWN))
        assert refused.value.code() in (StatusCode.UNAUTHENTICATED, StatusCode.UNAVAILABLE)

    began = time.monotonic()
    for _ in range(CALLS // 50):
        await asyncio.gather(*(guess() for _ in range(50)))
    with pytest.raises(grpc.aio.AioRpcError):
        await DiscoveryStub(guessing).Locate(LocateRequest())
    entries: list[tuple[str, str, str]] = []
    for _ in range(100):
        entries = await audited(admin)
        if any("no API token" in what for _, _, what in entries):
            break
        await asyncio.sleep(0.2)
    failures = [(actor, what) for actor, action, what in entries if action == "authentication.failed"]
    assert {actor for actor, _ in failures} == {"127.0.0.1"}
    rounds = (time.monotonic() - began) // GATHERED + 1
    assert len(failures) <= rounds * len({what.partition(": ")[2] for _, what in failures})
    assert sum(int(what.split()[0]) for _, what in failures if "does not know" in what) > 0
    assert [action for _, action, _ in entries if action != "authentication.failed"] == ["token.create"]

"""What a caller is told of an etcd that does not answer."""

import asyncio

import grpc
import pytest
from portway_registry.errors import StoreUnavailable
from portway_registry.store.etcd import calls
from portway_registry.store.etcd.members import Member, Members
from portway_registry.store.spec import EtcdSpec


async def test_a_try_that_is_cut_short_does_not_hide_what_the_one_before_it_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last one may begin a moment before the time is up, and says nothing of the member then."""
    monkeypatch.setattr(calls, "TOTAL_SECONDS", 0.2)
    monkeypatch.setattr(calls, "PAUSES", (0.001, 0.001))
    tried: list[str] = []

    async def refuse_and_hang(member: Member, metadata: calls.Metadata) -> None:
        tried.append(member.endpoint)
        if len(tried) > 1:
            await asyncio.Event().wait()
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details="a wrong certificate"
        )

    members = Members(EtcdSpec(("one:1", "two:2")))
    try:
        with pytest.raises(StoreUnavailable, match="one:1 said last: UNAVAILABLE: a wrong certificate"):
            await calls.ask(members, refuse_and_hang)
    finally:
        await members.close()
    assert tried == ["one:1", "two:2"]

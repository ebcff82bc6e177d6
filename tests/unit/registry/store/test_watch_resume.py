"""Where a watch on etcd resumes, shown by an etcd that says exactly what a test tells it to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from portway_registry.errors import Compacted
from portway_registry.store.contract import Event, Revision
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.etcd_api import kv_pb2, rpc_pb2, rpc_pb2_grpc
from portway_registry.store.spec import EtcdSpec

Script = list[rpc_pb2.WatchResponse]

CREATED = rpc_pb2.WatchResponse(header=rpc_pb2.ResponseHeader(revision=50), created=True)


def told(*revisions: int, header: int, fragment: bool = False) -> rpc_pb2.WatchResponse:
    """A message with a put for each revision."""
    events = [
        kv_pb2.Event(kv=kv_pb2.KeyValue(key=f"/a/{revision}".encode(), create_revision=revision, mod_revision=revision))
        for revision in revisions
    ]
    return rpc_pb2.WatchResponse(header=rpc_pb2.ResponseHeader(revision=header), events=events, fragment=fragment)


def progress(revision: int) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(header=rpc_pb2.ResponseHeader(revision=revision))


class Scripted(rpc_pb2_grpc.WatchServicer, rpc_pb2_grpc.KVServicer):
    """Plays one script a stream, ends the stream after it, and notes where each was asked to start."""

    def __init__(self, scripts: list[Script]) -> None:
        self._scripts = iter(scripts)
        self.requests: list[rpc_pb2.WatchCreateRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []

    async def Range(self, request: rpc_pb2.RangeRequest, context: object) -> rpc_pb2.RangeResponse:
        return rpc_pb2.RangeResponse(header=rpc_pb2.ResponseHeader(revision=60))

    async def Watch(
        self,
        requests: AsyncIterator[rpc_pb2.WatchRequest],
        context: grpc.aio.ServicerContext[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse],
    ) -> AsyncIterator[rpc_pb2.WatchResponse]:
        self.requests.append((await anext(aiter(requests))).create_request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        yield CREATED
        for response in next(self._scripts):
            yield response


@asynccontextmanager
async def watched(*scripts: Script) -> AsyncIterator[tuple[Scripted, "asyncio.Future[list[list[int]]]"]]:
    """The server, and the revisions of each batch that a watch after 10 told until one of 99 or an error."""
    # Of the methods of KV only Range is called.
    servicer = Scripted([*scripts, [told(99, header=99)]])  # type: ignore[abstract]
    server = grpc.aio.server()
    rpc_pb2_grpc.add_WatchServicer_to_server(servicer, server)
    rpc_pb2_grpc.add_KVServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    store = EtcdStore(EtcdSpec((f"127.0.0.1:{port}",)))

    async def collect() -> list[list[int]]:
        batches: list[list[int]] = []
        watch = store.watch("/a/", Revision(10))
        batch: tuple[Event, ...]
        async for batch in watch:
            batches.append([int(event.entry.modified) for event in batch])
            if batches[-1][-1] == 99:
                break
        await watch.aclose()
        return batches

    try:
        async with asyncio.timeout(10):
            yield servicer, asyncio.ensure_future(collect())
    finally:
        await store.close()
        await server.stop(None)


def starts(servicer: Scripted) -> list[int]:
    return [request.start_revision for request in servicer.requests]


async def test_it_resumes_after_the_last_event_not_after_the_header() -> None:
    """The header's revision of a message with events is the store's; events up to it may be yet to come."""
    async with watched([told(11, 12, header=50)]) as (servicer, batches):
        assert await batches == [[11, 12], [99]]
    assert starts(servicer) == [11, 13]


async def test_created_moves_nothing() -> None:
    """A watch that was begun and broke off at once is begun again from the same place."""
    async with watched([], []) as (servicer, batches):
        assert await batches == [[99]]
    assert starts(servicer) == [11, 11, 11]


async def test_progress_moves_forward_only() -> None:
    """A progress notification says that everything up to it was told; an older one says nothing."""
    async with watched([told(11, header=11), progress(40)], [progress(30)]) as (servicer, batches):
        assert await batches == [[11], [99]]
    assert starts(servicer) == [11, 41, 41]


async def test_fragments_are_one_batch() -> None:
    """The parts of a split message are told together."""
    parts = [told(11, header=50, fragment=True), told(11, header=50, fragment=True), told(11, header=50)]
    async with watched(parts) as (servicer, batches):
        assert await batches == [[11, 11, 11], [99]]
    assert starts(servicer) == [11, 12]


async def test_fragments_that_break_off_are_told_whole_by_the_next_stream() -> None:
    """The first parts of a message whose last part never came are not told twice."""
    async with watched([told(11, header=50, fragment=True)], [told(11, header=50)]) as (servicer, batches):
        assert await batches == [[11], [99]]
    assert starts(servicer) == [11, 11, 12]


async def test_a_cancelled_watch_is_begun_again() -> None:
    """etcd may cancel a watch for reasons that pass."""
    async with watched([rpc_pb2.WatchResponse(canceled=True, cancel_reason="no leader")]) as (servicer, batches):
        assert await batches == [[99]]
    assert starts(servicer) == [11, 11]


async def test_a_compacted_watch_is_not() -> None:
    """A watch that etcd cancels because of compaction raises Compacted with etcd's revision."""
    async with watched([rpc_pb2.WatchResponse(canceled=True, compact_revision=33)]) as (_, batches):
        with pytest.raises(Compacted) as raised:
            await batches
    assert raised.value.revision == 33


async def test_a_watch_asks_for_a_leader_and_for_progress() -> None:
    """A member cut off from the cluster must end the stream, and a quiet one say how far it is."""
    async with watched() as (servicer, batches):
        await batches
    assert servicer.metadata[0]["hasleader"] == "true"
    assert servicer.requests[0].progress_notify
    assert servicer.requests[0].fragment
    assert (servicer.requests[0].key, servicer.requests[0].range_end) == (b"/a/", b"/a0")

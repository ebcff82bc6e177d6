"""A watch on etcd that outlives connections, members and outages.

Here: where a stream begins, what is delivered, when a new stream is opened.

A watch resumes after the revision of the last event it delivered, or of a later progress notification. The revision in
the header of a message with events is no such mark: it is that of the member's store, which may be ahead of the watch.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator

import grpc
from portway_runtime.backoff import Backoff

from portway_registry.errors import Compacted, StoreError
from portway_registry.store.contract import Event, Revision
from portway_registry.store.etcd.calls import PAUSES, Metadata, Refused, Remedy, refuse, remedy, token_refused
from portway_registry.store.etcd.members import TRY_SECONDS, Member, Members
from portway_registry.store.etcd.messages import event_of, prefix_range
from portway_registry.store.etcd_api import kv_pb2, rpc_pb2

logger = logging.getLogger(__name__)

_HAS_LEADER = (("hasleader", "true"),)  # a member cut off from the others then ends the stream

_Stream = grpc.aio.StreamStreamCall[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse]


class _Interrupted(Exception):
    """The stream ended; another must be opened."""


async def watch(members: Members, prefix: str, after: Revision) -> AsyncGenerator[tuple[Event, ...], None]:
    """As Store.watch."""
    position = after
    backoff = Backoff(*PAUSES)
    interrupted = False
    while not members.closing.is_set():
        member = members.current()
        metadata: Metadata = ()
        stream: _Stream | None = None
        try:
            async with asyncio.timeout(TRY_SECONDS):
                metadata = await members.metadata(member)
                stream = member.watch.Watch(metadata=_HAS_LEADER + metadata)
                await _begin(stream, prefix, position)
                await _check_history(member, metadata, prefix, position)
            if interrupted:
                logger.debug("watch resumed", extra={"endpoint": member.endpoint, "after": position})
                interrupted = False
            members.answered(member)
            fragments: list[kv_pb2.Event] = []
            while True:
                response = await _next(stream)
                backoff.reset()
                fragments.extend(response.events)
                if response.fragment:
                    continue
                if fragments:
                    position = Revision(fragments[-1].kv.mod_revision)
                    batch = tuple(map(event_of, fragments))
                    fragments.clear()
                    yield batch
                else:
                    position = Revision(max(position, response.header.revision))
        except (grpc.aio.AioRpcError, TimeoutError, _Interrupted) as error:
            reason = _describe(error)
            if token_refused(reason):
                members.refused(metadata)
            else:
                members.failed(member)
        except asyncio.CancelledError:
            if members.cut_short():
                return
            raise
        finally:
            if stream is not None:
                stream.cancel()
        if not interrupted:
            interrupted = True
            logger.warning("watch interrupted", extra={"endpoint": member.endpoint, "reason": reason})
        await members.closed_within(backoff.next())


async def _begin(stream: _Stream, prefix: str, position: Revision) -> None:
    """Ask for the events after `position`, and wait until etcd confirms."""
    start, end = prefix_range(prefix)
    await stream.write(
        rpc_pb2.WatchRequest(
            create_request=rpc_pb2.WatchCreateRequest(
                key=start, range_end=end, start_revision=position + 1, progress_notify=True, fragment=True
            )
        )
    )
    response = await _next(stream)
    if not response.created:
        raise _Interrupted("etcd did not begin the watch")


async def _check_history(member: Member, metadata: Metadata, prefix: str, position: Revision) -> None:
    """Raise Compacted unless the store can still be read at `position`.

    A watch alone does not always say so: etcd before 3.4.32 and 3.5.14 silently loses a deletion at the very revision
    that was compacted, and a watch from a revision that a restored store has not reached waits for ever.
    """
    if position <= 0:
        return
    request = rpc_pb2.RangeRequest(key=prefix_range(prefix)[0], revision=position, limit=1, keys_only=True)
    try:
        await member.kv.Range(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        if remedy(error) is not Remedy.NONE:
            raise
        try:
            refuse(error)
        except Refused as refused:
            if refused.compacted or refused.ahead:
                raise Compacted(await _revision(member, metadata, prefix)) from None
            raise _Interrupted(refused.details) from None
        except StoreError as other:
            raise _Interrupted(str(other)) from None


async def _revision(member: Member, metadata: Metadata, prefix: str) -> Revision:
    """The store's revision now, from which a watch can certainly begin."""
    request = rpc_pb2.RangeRequest(key=prefix_range(prefix)[0], limit=1, keys_only=True)
    return Revision((await member.kv.Range(request, metadata=metadata)).header.revision)


async def _next(stream: _Stream) -> rpc_pb2.WatchResponse:
    response = await stream.read()
    if not isinstance(response, rpc_pb2.WatchResponse):
        raise _Interrupted("etcd ended the stream")
    if response.canceled:
        if response.compact_revision:
            raise Compacted(response.compact_revision)
        raise _Interrupted(response.cancel_reason or "etcd cancelled the watch")
    return response


def _describe(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or f"no answer within {TRY_SECONDS} s"

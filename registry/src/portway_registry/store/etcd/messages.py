"""The store's values as etcd's messages, and back: pure functions."""

from collections.abc import Iterator, Sequence

from portway_registry.store.contract import (
    Delete,
    Entry,
    Event,
    EventKind,
    LeaseId,
    Put,
    Revision,
    Write,
)
from portway_registry.store.etcd_api import kv_pb2, rpc_pb2

# etcd accepts 128 operations in a transaction, and counts those of a nested one too.
WRITES_PER_TRANSACTION = 100
# etcd accepts requests of 1.5 MiB; keys and framing need room too.
BYTES_PER_TRANSACTION = 1 << 20
_FRAMING = 64  # bytes, at most, that a write needs beside its key (twice: once to compare) and value

_Compare = rpc_pb2.Compare


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all those that begin with `prefix`: the end of a range in etcd."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """The range of keys that begin with `prefix`: first key, and end (excluded)."""
    start = prefix.encode()
    return (start or b"\0", prefix_end(start))


def entry_of(kv: kv_pb2.KeyValue) -> Entry:
    """A key-value pair as an entry."""
    return Entry(kv.key.decode(), kv.value, Revision(kv.create_revision), Revision(kv.mod_revision), LeaseId(kv.lease))


def event_of(event: kv_pb2.Event) -> Event:
    """A watch's event as a change."""
    kind = EventKind.DELETE if event.type == kv_pb2.Event.DELETE else EventKind.PUT
    return Event(kind, entry_of(event.kv))


def transactions(writes: Sequence[Write]) -> Iterator[list[range]]:
    """Split writes into waves of transactions, as ranges of indices.

    A key occurs once in a wave, since etcd accepts a key once in a transaction, and the transactions of a wave are sent
    concurrently. Each transaction keeps etcd's limits.
    """
    wave: list[range] = []
    keys: set[str] = set()
    start = size = 0
    for index, write in enumerate(writes):
        weight = _FRAMING + 2 * len(write.key.encode()) + (len(write.value) if isinstance(write, Put) else 0)
        repeated = write.key in keys
        if index > start and (
            repeated or index - start == WRITES_PER_TRANSACTION or size + weight > BYTES_PER_TRANSACTION
        ):
            wave.append(range(start, index))
            start, size = index, 0
        if repeated:
            yield wave
            wave, keys = [], set()
        keys.add(write.key)
        size += weight
    if writes:
        wave.append(range(start, len(writes)))
        yield wave


def transaction(writes: Sequence[Write]) -> rpc_pb2.TxnRequest:
    """One transaction for writes of different keys; a conditional one is nested in it with its condition."""
    return rpc_pb2.TxnRequest(success=[_operation(write) for write in writes])


def outcomes(writes: Sequence[Write], response: rpc_pb2.TxnResponse, *, retried: bool) -> list[bool]:
    """Whether each write of a transaction was done."""
    return [_outcome(write, answer, retried=retried) for write, answer in zip(writes, response.responses, strict=True)]


def _operation(write: Write) -> rpc_pb2.RequestOp:
    key = write.key.encode()
    if isinstance(write, Delete):
        done = rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
    else:
        done = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=write.value, lease=write.lease))
    if write.expected is None:
        return done
    condition = _Compare(result=_Compare.EQUAL, target=_Compare.MOD, key=key, mod_revision=write.expected)
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))
    return rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(compare=[condition], success=[done], failure=[read]))


def _outcome(write: Write, answer: rpc_pb2.ResponseOp, *, retried: bool) -> bool:
    if write.expected is None or answer.response_txn.succeeded:
        return True
    found = answer.response_txn.responses[0].response_range.kvs
    return retried and _stands(write, entry_of(found[0]) if found else None)


def _stands(write: Write, entry: Entry | None) -> bool:
    """Whether a conditional write whose first try went unanswered was done by that try, as far as can be seen."""
    if isinstance(write, Delete):
        return entry is None
    if entry is None or entry.value != write.value or entry.lease != write.lease:
        return False
    return write.expected != 0 or entry.created == entry.modified

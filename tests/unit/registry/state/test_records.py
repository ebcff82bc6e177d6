"""The values in the store: read again as they were, and by releases before and after this one."""

import msgspec
import pytest
from portway_proto.v1.types_pb2 import (
    NODE_STATE_CORDONED,
    NODE_STATE_DRAINING,
    NODE_STATE_READY,
    REACH_FAILED,
    REACH_REACHED,
    REACH_TRYING,
    REACH_UNSPECIFIED,
    NodeInfo,
    NodeState,
    Reach,
)
from portway_registry.state.records import (
    AuditRecord,
    GrantKeyRecord,
    Role,
    SettingsRecord,
    TokenRecord,
    decode_node,
    decode_tunnel,
    decoder,
    encode,
    is_ready,
)

RECORDS = [
    TokenRecord("id", "demo", Role.ADMIN, b"\0\xff" * 16, "what for", 3, 1, 2),
    GrantKeyRecord("1", b"\0" * 32, b"\xff" * 32, 5),
    SettingsRecord("portway-1", 7),
    AuditRecord(1, "admin", "token.create", "id"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: msgspec.Struct) -> None:
    """Bytes included."""
    assert decoder(type(record))(encode(record)) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_later_release_s_field_is_passed_over(record: msgspec.Struct) -> None:
    """Replicas of two releases share a store during an upgrade."""
    later = msgspec.json.encode(msgspec.to_builtins(record) | {"from_the_future": 1})
    assert decoder(type(record))(later) == record


def test_an_earlier_release_s_token_is_read() -> None:
    """What was added later has a default."""
    early = b'{"id":"a","tenant":"t","role":"client","secret_sha256":""}'
    assert decoder(TokenRecord)(early) == TokenRecord("a", "t", Role.CLIENT, b"")


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b"noise", b'{"id":1}', b"\xff"])
def test_what_is_no_record_is_a_value_error(value: bytes) -> None:
    """Whatever is there instead."""
    with pytest.raises(ValueError):
        decoder(TokenRecord)(value)


def test_messages_are_read_or_refused() -> None:
    """Nodes and tunnels are the protocol's own messages."""
    node = NodeInfo(name="fra-1", port=443)
    assert decode_node(node.SerializeToString()) == node
    for decode in (decode_node, decode_tunnel):
        with pytest.raises(ValueError):
            decode(b"\xff\xff\xff")


@pytest.mark.parametrize(
    ("state", "reach", "ready"),
    [
        (NODE_STATE_READY, REACH_UNSPECIFIED, True),
        (NODE_STATE_READY, REACH_REACHED, True),
        (NODE_STATE_READY, REACH_TRYING, False),
        (NODE_STATE_READY, REACH_FAILED, False),
        (NODE_STATE_CORDONED, REACH_REACHED, False),
        (NODE_STATE_DRAINING, REACH_REACHED, False),
    ],
)
def test_a_node_is_ready_when_it_serves_and_is_reached(
    state: "NodeState.ValueType", reach: "Reach.ValueType", ready: bool
) -> None:
    """A cluster that checks no addresses leaves the reach unspecified. Its clock may be off as far as it allows of a
    grant's times."""
    assert is_ready(NodeInfo(state=state, reach=reach)) is ready
    for ahead in (900, -900):
        assert is_ready(NodeInfo(state=state, reach=reach, clock_ahead_s=ahead)) is ready
    for ahead in (901, -901):
        assert not is_ready(NodeInfo(state=state, reach=reach, clock_ahead_s=ahead))

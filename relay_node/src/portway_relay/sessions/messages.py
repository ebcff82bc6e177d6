"""A client's protobuf messages, read: one that cannot be is a breach of the protocol."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from portway_proto.v1.lane_pb2 import FAILURE_CODE_PROTOCOL

from portway_relay.errors import Refused

M = TypeVar("M", bound=Message)


def read(kind: type[M], payload: bytes) -> M:
    """The message. Raises Refused."""
    try:
        return kind.FromString(payload)
    except DecodeError:
        raise Refused(FAILURE_CODE_PROTOCOL, f"a malformed {kind.DESCRIPTOR.name}") from None

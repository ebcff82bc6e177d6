"""The errors of the lane protocol.

WireError
├── LocalProtocolError     this side asked for something that the lane's state does not allow: a bug on this side
└── RemoteProtocolError    the peer broke the protocol: close the lane, and use neither its state nor its reader again
    └── FrameTooLarge
"""


class WireError(Exception):
    """Base of the lane protocol's errors."""


class LocalProtocolError(WireError):
    """This side asked for something that the lane's state does not allow."""


class RemoteProtocolError(WireError):
    """The peer broke the protocol."""


class FrameTooLarge(RemoteProtocolError):
    """A frame announced more bytes than its type allows."""

    def __init__(self, frame_type: int, length: int, limit: int) -> None:
        super().__init__(f"frame of type 0x{frame_type:02x} has {length} bytes; at most {limit} are allowed")
        self.frame_type = frame_type
        self.length = length
        self.limit = limit

"""Pages of a list: as many records as the caller wants, and never more bytes than a gRPC message may have.

A page's token is the sort key of its last record, so records that are added or removed between two pages shift none.
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeVar

# Bytes of records. gRPC's clients accept messages of 4 MiB; the last record of a page may be a large one.
_LARGEST_PAGE: Final = 3 << 20
# The tag and length of a record in its list.
_FRAMING: Final = 6


class Sized(Protocol):
    def ByteSize(self) -> int: ...  # noqa: N802 - protobuf's name


T = TypeVar("T")
Message = TypeVar("Message", bound=Sized)


def page(
    found: Mapping[str, T], make: Callable[[T], Message], *, after: str, size: int = 0
) -> tuple[list[Message], str]:
    """The records after the token `after`, in the order of their keys, and the next page's token; "" on the last page.

    found: the whole list, by sort key. make: the message for a record. size: records at most; 0 sets no limit.
    """
    keys = (key for key in found if key > after)
    wanted = heapq.nsmallest(size + 1, keys) if size else sorted(keys)
    messages: list[Message] = []
    total = 0
    for number, key in enumerate(wanted):
        message = make(found[key])
        total += message.ByteSize() + _FRAMING
        if messages and (number == size or total > _LARGEST_PAGE):
            return messages, wanted[number - 1]
        messages.append(message)
    return messages, ""

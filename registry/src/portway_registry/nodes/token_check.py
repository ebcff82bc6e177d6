"""Which of the tokens that a node has sessions of are not valid any more, or never were.

A node that was cut off hears of what was revoked in the last day; for anything older it names the tokens of its
sessions. Here: looking them up. Not here: how the node is told (session.py).
"""

from collections.abc import Sequence
from typing import Final

from portway_proto.records import TOKEN_ID

from portway_registry.errors import InvalidRequest
from portway_registry.state.records import TokenRecord
from portway_registry.state.views import View

_MOST_IDS: Final = 1_000  # in a message, as mesh.proto says


def checked_ids(token_ids: Sequence[str]) -> list[str]:
    """The ids of one message. Raises InvalidRequest for too many, and for one without its form."""
    if len(token_ids) > _MOST_IDS:
        raise InvalidRequest(f"{len(token_ids)} tokens in one message: send at most {_MOST_IDS}")
    if not all(map(TOKEN_ID.fullmatch, token_ids)):
        raise InvalidRequest("the list of tokens is refused: an id does not have its form")
    return list(token_ids)


async def invalid_tokens(known: View[TokenRecord], token_ids: Sequence[str]) -> list[str]:
    """Those that are revoked, or that the store does not have. Raises StoreUnavailable."""
    records = {one: known.get(one) for one in token_ids}
    # Those that the view does not show were made a moment ago, deleted, or invented.
    read = await known.read([one for one, record in records.items() if record is None])
    records |= {one: None if item is None else item.value for one, item in read.items()}
    return [one for one, record in records.items() if record is None or record.revoked_at_ms]

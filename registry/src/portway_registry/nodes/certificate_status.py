"""Whether a node's certificate still stands, whenever it is shown: decided from memory, at each call.

Here: removed nodes and names that went to another node. Not here: reading certificates (services/callers.py), making
them (joining.py).
"""

from portway_registry.errors import CertificateSuperseded, NodeRemoved
from portway_registry.state.records import Order
from portway_registry.state.views import Views


def demand_standing(views: Views, node: str, issued_ms: int) -> None:
    """Raises NodeRemoved, and CertificateSuperseded for a certificate issued before the name was given anew."""
    if is_removed(views, node):
        raise NodeRemoved(node)
    identity = views.identities.get(node)
    if identity is not None and issued_ms < identity.joined_at_ms:
        raise CertificateSuperseded(node)


def is_removed(views: Views, node: str) -> bool:
    """Whether operators removed the node."""
    standing = views.orders.get(node)
    return standing is not None and standing.order is Order.REMOVE

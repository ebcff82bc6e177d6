"""Whether a node's certificate still stands, whenever it is shown: decided from memory, at each call.

Here: removed nodes and names that went to another node. Not here: reading certificates (services/callers.py), making
them (joining.py).
"""

from portway_registry.errors import CertificateSuperseded, NodeRemoved
from portway_registry.nodes.operator_orders import is_removed
from portway_registry.state.views import Views


def demand_standing(views: Views, node: str, issued_ms: int) -> None:
    """Raises NodeRemoved, and CertificateSuperseded for a certificate issued before the name was given anew."""
    if is_removed(views.orders, node):
        raise NodeRemoved(node)
    identity = views.identities.get(node)
    if identity is not None and issued_ms < identity.joined_at_ms:
        raise CertificateSuperseded(node)

"""How many tunnels a tenant, and each of its tokens, may have open at once.

Here: which limit holds for whom. Not here: how many are open (tunnels/quota.py).
"""

from portway_registry.state.records import TenantRecord, TokenRecord
from portway_registry.state.views import View


class TunnelLimits:
    """Limits as this replica knows them; replicas with the same default agree on them."""

    def __init__(self, tokens: View[TokenRecord], tenants: View[TenantRecord], *, default: int) -> None:
        """default: of a tenant without a limit of its own."""
        self._tokens = tokens
        self._tenants = tenants
        self._default = default

    def of_tenant(self, name: str) -> int:
        """Of all tokens of the tenant together."""
        tenant = self._tenants.get(name)
        return self._default if tenant is None else tenant.max_tunnels

    def is_default(self, name: str) -> bool:
        """Whether the tenant has no limit of its own."""
        return self._tenants.get(name) is None

    def of_token(self, token: TokenRecord) -> int:
        """Of this token alone: its own where that is below its tenant's, else its tenant's."""
        tenant = self.of_tenant(token.tenant)
        return min(token.max_tunnels, tenant) if token.max_tunnels else tenant

    def own_of_token(self, token_id: str) -> int:
        """What the token's record sets; 0 for nothing, and for a token that is not known (yet)."""
        token = self._tokens.get(token_id)
        return 0 if token is None else token.max_tunnels

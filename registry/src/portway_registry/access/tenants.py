"""Tenants: whom tokens and tunnels belong to, and how many tunnels each may have open at once.

A tenant is there as soon as a client token, a quota or a tunnel names it. Here: listing them and setting their quotas.
Not here: what the quota does (tunnels/quota.py).
"""

import logging
from collections import Counter
from dataclasses import dataclass

from portway_registry.access.tokens import MOST_TUNNELS
from portway_registry.errors import InvalidRequest
from portway_registry.names import check_tenant
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import Role, TenantRecord, encode
from portway_registry.state.tunnel_limits import TunnelLimits
from portway_registry.state.views import Views
from portway_registry.store.contract import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's quota, and what it has: open tunnels, client tokens that are not revoked.

    is_default: the quota is the registry's `--max-tunnels`.
    """

    name: str
    max_tunnels: int
    is_default: bool
    tunnels: int
    tokens: int


class Tenants:
    """The tenants of a cluster."""

    def __init__(self, store: Store, views: Views, limits: TunnelLimits, audit: Audit) -> None:
        self._store = store
        self._views = views
        self._limits = limits
        self._audit = audit

    def all(self) -> dict[str, Tenant]:
        """Every tenant by its name."""
        tokens = Counter(
            token.tenant
            for token in self._views.tokens.values()
            if token.role is Role.CLIENT and not token.revoked_at_ms
        )
        named = tokens.keys() | self._views.tenants.items.keys() | self._views.tunnels.tenants
        return {name: self._tenant(name, tokens[name]) for name in named}

    def demand_within(self, name: str, max_tunnels: int) -> None:
        """Raise InvalidRequest for a token's limit above its tenant's: it would have no effect."""
        most = self._limits.of_tenant(name)
        if max_tunnels > most:
            raise InvalidRequest(
                f"tenant {name} may have {most} tunnels, and a token only fewer: leave --max-tunnels out, or set the "
                f"tenant's quota first (`portway-admin tenant set-quota {name} {max_tunnels}`)"
            )

    async def set_quota(self, name: str, max_tunnels: int, *, by: str) -> Tenant:
        """Let the tenant have this number of tunnels open at once, or the default with 0; `by` is an operator's token.

        Those over it end at once, the newest first. This replica acts on it when this returns. Raises InvalidRequest,
        StoreUnavailable.
        """
        try:
            check_tenant(name)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        if max_tunnels > MOST_TUNNELS:
            raise InvalidRequest(f"max_tunnels is at most {MOST_TUNNELS}, or 0 for the registry's default")
        if max_tunnels:
            await self._store.put(keys.tenant(name), encode(TenantRecord(name, max_tunnels)))
        else:
            await self._store.delete(keys.tenant(name))
        logger.info("quota set", extra={"tenant": name, "max_tunnels": max_tunnels or "default"})
        if await self._audit.add_done(by, "tenant.set-quota", f"{name} {max_tunnels or 'default'}"):
            await self._views.tenants.caught_up_if_possible(name)
        return self.all().get(name) or self._tenant(name, 0)

    def _tenant(self, name: str, tokens: int) -> Tenant:
        return Tenant(
            name,
            self._limits.of_tenant(name),
            self._limits.is_default(name),
            len(self._views.tunnels.of_tenant(name)),
            tokens,
        )

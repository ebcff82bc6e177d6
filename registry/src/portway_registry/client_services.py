"""What clients and operators call at a replica: the services of its public port, and of the port for operators alone.

Here: making them from the cluster's parts. Not here: the ports (server.py), the services themselves (services/).
"""

from collections.abc import Callable
from dataclasses import dataclass

from portway_geo.locator import Locator
from portway_runtime.clocks import monotonic
from portway_runtime.expiry import Watched

from portway_registry.access.invitations import Invitations
from portway_registry.access.tenants import Tenants
from portway_registry.access.tokens import Tokens
from portway_registry.acme.operator_wishes import OperatorWishes
from portway_registry.cluster import Closing, Cluster
from portway_registry.config import Config
from portway_registry.dns.static_records import StaticRecords
from portway_registry.nodes.operator_orders import OperatorOrders
from portway_registry.placement.reports import Reports
from portway_registry.placement.roster import Roster
from portway_registry.services.admin import Admin
from portway_registry.services.callers import Identify, by_token
from portway_registry.services.discovery import Discovery
from portway_registry.services.enrolment import Enrolment
from portway_registry.services.health import Health, Surroundings
from portway_registry.services.token_streams import TokenStreams


@dataclass(frozen=True, slots=True)
class ClientServices:
    """The services, and what is asked about each call to them."""

    discovery: Discovery
    enrolment: Enrolment
    admin: Admin
    identify: Identify
    streams: TokenStreams
    reports: Reports


def client_services(
    config: Config,
    cluster: Cluster,
    locator: Locator,
    watched: Callable[[], dict[str, Watched]],
    wishes: OperatorWishes | None,
    *,
    connections: int,
    closing: Closing,
) -> ClientServices:
    """watched: this process's certificates, by name. wishes: None where no certificates are obtained. connections: of
    known callers that each port holds."""
    store, views, audit, now_ms = cluster.store, cluster.views, cluster.audit, cluster.now_ms
    tokens = Tokens(store, views.tokens, audit, now_ms)
    tenants = Tenants(store, views, cluster.quota.limits, audit)
    invitations = Invitations(store, views.invitations, audit, now_ms)
    orders = OperatorOrders(store, views, audit, now_ms)
    streams = TokenStreams(views.tokens)
    closing.append(streams.close)
    roster = Roster(views.nodes, views.orders, cluster.hub)
    closing.append(roster.close)
    reports = Reports(roster.node, monotonic)
    discovery = Discovery(
        roster,
        cluster.grants,
        cluster.quota,
        locator,
        reports,
        cluster_id=cluster.cluster_id,
        authority=cluster.authority,
        now_ms=now_ms,
    )
    around = Surroundings(
        cluster.replica.id,
        cluster.created_at_ms,
        config.domain or "",
        config.geoip,
        locator,
        watched,
        connections,
        config.max_connections,
    )
    admin = Admin(
        views,
        orders,
        tokens,
        tenants,
        invitations,
        cluster.grant_keys,
        cluster.hub.front_key,
        cluster.rotation,
        audit,
        StaticRecords(store, views, cluster.dns, audit, now_ms),
        wishes,
        Health(store, views, audit, now_ms, around),
    )
    return ClientServices(
        discovery,
        Enrolment(cluster.certificates, views),
        admin,
        by_token(tokens, invitations),
        streams,
        reports,
    )

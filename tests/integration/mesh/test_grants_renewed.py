"""A client's grant is renewed while it is attached, so that there is a good one when its node is lost."""

from collections.abc import Callable
from typing import Any

import portway
import pytest
from portway_carrier.contract import Lane
from portway_proto.v1.lane_pb2 import Hello
from portway_registry.access.grants import Grants
from portway_relay.sessions.session_presence import SessionPresence
from portway_relay.sessions.sessions import Sessions
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.links.client_link import ClientLink
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.waiting import eventually


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every grant that a registry signs, in order; they live for a second."""
    grants: list[str] = []
    sign = Grants.sign

    def sign_and_tell(self: Grants, token: Any, session_key: bytes, told: Any) -> Any:
        grant = sign(self, token, session_key, told)
        grants.append(grant.token)
        return grant

    monkeypatch.setattr(Grants, "sign", sign_and_tell)
    monkeypatch.setattr("portway_registry.access.grants._LIFE_MS", 1_000)
    monkeypatch.setattr("portway_registry.access.grants.RENEW_AFTER_MS", 500)
    monkeypatch.setattr("portway.engine.grpc_registries.SHORTEST_LIFE", 0.0)
    # A grant is shown with the next presence.
    monkeypatch.setattr("portway.engine.presences.PRESENCE_INTERVAL", 0.1)
    monkeypatch.setattr("portway.engine.presences.LOOK_EVERY", 0.1)
    return grants


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every grant that a node is shown, in order: with HELLO, then with presences."""
    grants: list[str] = []
    hello, take_grant = Sessions.hello, SessionPresence._take_grant

    def hello_and_tell(self: Sessions, lane: Lane, message: Hello) -> Any:
        grants.append(message.grant)
        return hello(self, lane, message)

    def take_and_tell(self: SessionPresence, encoded: str) -> None:
        grants.append(encoded)
        take_grant(self, encoded)

    monkeypatch.setattr(Sessions, "hello", hello_and_tell)
    monkeypatch.setattr(SessionPresence, "_take_grant", take_and_tell)
    return grants


def test_the_youngest_grant_is_shown_to_the_next_connection(
    signed: list[str], shown: list[str], start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """Renewed at half its life again and again, and shown to the node each time; a grant's end ends no session."""
    cluster = start_cluster()
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel:
            eventually(lambda: len(shown) >= 4)
            cluster.stop_registry()
            eventually(lambda: serves(tunnel, cluster.ca))
            assert shown == signed[: len(shown)]
            link.cut()
            eventually(lambda: serves(tunnel, cluster.ca))
            assert shown[-1] in signed[-2:]
            assert shown.count(shown[-1]) == 2
            cluster.start_registry()

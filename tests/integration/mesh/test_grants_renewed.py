"""A client's grant is renewed while it is attached, so that there is a good one when its node is lost."""

from collections.abc import Callable
from typing import Any

import portway
import pytest
from portway_registry.access.grants import Grants
from portway_relay.sessions.grants import GrantVerifier
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.fixtures import AsClient
from portway_testkit.links.client_link import ClientLink
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.visitors.recovery import serves
from portway_testkit.waiting import eventually


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every grant that a registry signs, in order; they live for a second, and clients show them a moment later."""
    grants: list[str] = []
    sign = Grants.sign

    def sign_and_tell(self: Grants, token: Any, session_key: bytes) -> Any:
        grant = sign(self, token, session_key)
        grants.append(grant.token)
        return grant

    monkeypatch.setattr(Grants, "sign", sign_and_tell)
    monkeypatch.setattr("portway_registry.access.grants._LIFE_MS", 1_000)
    monkeypatch.setattr("portway_registry.access.grants.RENEW_AFTER_MS", 500)
    monkeypatch.setattr("portway.engine.grpc_registries.SHORTEST_LIFE", 0.0)
    monkeypatch.setattr("portway.engine.presences.PRESENCE_INTERVAL", 0.1)
    monkeypatch.setattr("portway.engine.presences.LOOK_EVERY", 0.1)
    return grants


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every grant that a node reads, in order: one in HELLO before and after its signature is checked."""
    grants: list[str] = []
    read = GrantVerifier.read

    def read_and_tell(self: GrantVerifier, token: str) -> Any:
        grants.append(token)
        return read(self, token)

    monkeypatch.setattr(GrantVerifier, "read", read_and_tell)
    return grants


def test_the_youngest_grant_is_shown_to_the_next_connection(
    signed: list[str], shown: list[str], start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """Renewed at half its life again and again, and shown to the node each time; a grant's end ends no session."""
    cluster = start_cluster()
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel:
            eventually(lambda: len(set(shown)) >= 4)
            cluster.stop_registry()
            eventually(lambda: serves(tunnel, cluster.ca))
            before = list(shown)
            assert list(dict.fromkeys(before)) == signed[: len(set(before))]
            link.cut()
            eventually(lambda: serves(tunnel, cluster.ca))
            (again,) = set(shown[len(before) :])
            assert again in signed[-2:]
            cluster.start_registry()

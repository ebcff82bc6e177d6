"""A client's grant is renewed while it is attached, so that there is a good one when its node is lost."""

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass(frozen=True, slots=True)
class Shown:
    """The grants that a node was shown, in order: with every HELLO and presence, and those with a HELLO again."""

    grants: list[str] = field(default_factory=list)
    by_hello: list[str] = field(default_factory=list)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown = Shown()
    hello, take_grant = Sessions.hello, SessionPresence._take_grant

    def hello_and_tell(self: Sessions, lane: Lane, message: Hello) -> Any:
        shown.grants.append(message.grant)
        shown.by_hello.append(message.grant)
        return hello(self, lane, message)

    def take_and_tell(self: SessionPresence, encoded: str) -> None:
        shown.grants.append(encoded)
        take_grant(self, encoded)

    monkeypatch.setattr(Sessions, "hello", hello_and_tell)
    monkeypatch.setattr(SessionPresence, "_take_grant", take_and_tell)
    return shown


def test_the_youngest_grant_is_shown_to_the_next_connection(
    signed: list[str], shown: Shown, start_cluster: Callable[..., Cluster], as_client: AsClient, origin: HttpOrigin
) -> None:
    """Renewed at half its life again and again, and shown to the node each time; a grant's end ends no session."""
    cluster = start_cluster()
    with ClientLink(cluster) as link:
        as_client(cluster.environment())
        with portway.forward(origin.port) as tunnel:
            eventually(lambda: len(shown.grants) >= 4)
            cluster.stop_registry()
            eventually(lambda: serves(tunnel, cluster.ca))
            before = [signed.index(grant) for grant in shown.grants.copy()]
            # One that is renewed before the next presence is shown by nobody.
            assert before == sorted(set(before))
            assert shown.by_hello == [signed[0]]
            link.cut()
            eventually(lambda: len(shown.by_hello) == 2)
            eventually(lambda: serves(tunnel, cluster.ca))
            # The last one that was signed may never have come to the client: its registry was stopped meanwhile.
            assert shown.by_hello[1] in signed[-2:]
            assert signed.index(shown.by_hello[1]) >= before[-1]
            cluster.start_registry()

"""Grants with session keys of a test's own, and what clients by hand sign with them.

Here: getting grants from a registry, HELLO's signature, claims, presences. Not here: lanes (links/hand_lane.py).
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from portway_proto.v1.discovery_pb2 import LocateRequest
from portway_proto.v1.discovery_pb2_grpc import DiscoveryStub
from portway_proto.v1.lane_pb2 import Hello, Welcome
from portway_proto.wire.limits import PROTOCOL_VERSION
from portway_proto.wire.statements import Claim, Presence, SigningKey, cluster_tag, sign_greeting
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS

from portway_testkit.clusters.cluster import PATIENCE, Cluster
from portway_testkit.signers import SessionSigner


@dataclass(frozen=True, slots=True)
class HandGrant:
    """A grant and the session key that it is for."""

    token: str
    signer: SessionSigner
    presented: list[Presence] = field(default_factory=list)  # every presence that was signed

    def hello(self, node: str, certificate: bytes, session: Welcome | None = None, *, version: int) -> Hello:
        """HELLO for the node that has shown this certificate."""
        signature = sign_greeting(self.signer.key, self.signer.cluster, node, certificate)
        hello = Hello(version=version, grant=self.token, client_version="by hand", signature=signature)
        if session is not None:
            hello.session_id, hello.session_secret = session.session_id, session.session_secret
        return hello

    def claim(self, key: SigningKey, epoch: int, node: str, *, unencrypted: bool = False) -> Claim:
        """A claim of this session, in place of the one that it had for the key."""
        self.signer.held[:] = [claim for claim in self.signer.held if claim.key != key.public]
        return self.signer.claim(key, node=node, epoch=epoch, unencrypted=unencrypted)

    def present(self, node: str, *claims: Claim) -> Presence:
        """A presence at a node that lists these claims, or all for it, later than each before."""
        self.presented.append(self.signer.present(node, *claims, time_ms=_later()))
        return self.presented[-1]


def forged_hello(grant: str, node: str, certificate: bytes, *, version: int = PROTOCOL_VERSION) -> Hello:
    """HELLO with any grant, signed with a session key that it does not name."""
    return HandGrant(grant, SessionSigner()).hello(node, certificate, version=version)


@dataclass
class Grants:
    """A client token's grants, each for a session key of its own: two sessions with one key would take each other's
    tunnels along."""

    environment: Mapping[str, str]
    _by_session: dict[bytes, HandGrant] = field(default_factory=dict)
    _spare: list[HandGrant] = field(default_factory=list)

    def new(self) -> HandGrant:
        """A grant for a new session key. Some are got at once: the next ones need no registry."""
        if not self._spare:
            self._spare = self.several(_SPARE)
        return self._spare.pop()

    def several(self, number: int) -> list[HandGrant]:
        """So many, by one connection."""
        credentials = grpc.ssl_channel_credentials(Path(self.environment["PORTWAY_CA"]).read_bytes())
        options = (*OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN)
        metadata = (("authorization", f"Bearer {self.environment['PORTWAY_TOKEN']}"),)
        grants = []
        with grpc.secure_channel(self.environment["PORTWAY_REGISTRY"], credentials, options) as channel:
            locate = DiscoveryStub(channel).Locate
            for key in [SigningKey() for _ in range(number)]:
                answer = locate(LocateRequest(session_key=key.public), timeout=PATIENCE, metadata=metadata)
                grants.append(HandGrant(answer.grant.token, SessionSigner(cluster_tag(answer.cluster_id), key)))
        return grants

    def of(self, session: Welcome | None) -> HandGrant:
        """The grant of a session that is to be resumed, or a new one."""
        known = None if session is None else self._by_session.get(session.session_id)
        return known or self.new()

    def began(self, session: Welcome, grant: HandGrant) -> None:
        """Note which grant a session was begun with."""
        self._by_session[session.session_id] = grant


def grants_of(cluster: Cluster) -> Grants:
    """The grants of a new token."""
    return Grants(cluster.environment())


_SPARE = 6
_lock = threading.Lock()
_last_ms = 0


def _later() -> int:
    """The time in milliseconds since the Unix epoch, later than each before."""
    global _last_ms
    with _lock:
        _last_ms = max(_last_ms + 1, int(time.time() * 1000))
        return _last_ms

"""Keys that sign claims and presences in tests: a session's key with the tunnels that it holds.

The real client decides what it signs and when; here a test says every field.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from portway_proto.v1.mesh_pb2 import AnnouncedSession
from portway_proto.v1.types_pb2 import TunnelInfo, TunnelOptions
from portway_proto.wire.labels import Label, label_of_key
from portway_proto.wire.statements import Claim, Presence, SigningKey, cluster_tag, sign_claim, sign_presence

CLUSTER_ID = "test-cluster"
CLUSTER = cluster_tag(CLUSTER_ID)
# The time of tests that inject a clock, in milliseconds since the Unix epoch.
NOW_MS = 1_800_000_000_000
# Bytes that are no protobuf message: a field that is cut off.
UNREADABLE = b"\x0a\xff"


@dataclass
class SessionSigner:
    """A session key. `present` lists the claims of `held` that are for the node, or the given ones."""

    cluster: bytes = CLUSTER
    key: SigningKey = field(default_factory=SigningKey)
    held: list[Claim] = field(default_factory=list)

    def claim(
        self,
        tunnel: SigningKey | None = None,
        *,
        node: str,
        epoch: int = NOW_MS,
        h2_enabled: bool = False,
        unencrypted: bool = False,
        unreadable: bool = False,
    ) -> Claim:
        """A claim for this session key, added to `held`; with a tunnel key of its own by default. unreadable: signed as
        it should be, with options that are no message."""
        options = TunnelOptions(h2_enabled=h2_enabled, unencrypted=unencrypted).SerializeToString()
        if unreadable:
            options = UNREADABLE
        claim = sign_claim(
            tunnel or SigningKey(), self.cluster, epoch=epoch, session_key=self.key.public, node=node, options=options
        )
        self.held.append(claim)
        return claim

    def present(self, node: str, *claims: Claim, time_ms: int = NOW_MS) -> Presence:
        """A presence at a node that lists these claims, or all of `held` for that node."""
        listed = claims or tuple(claim for claim in self.held if claim.node == node)
        ids = frozenset(claim.id for claim in listed)
        return sign_presence(self.key, self.cluster, time_ms=time_ms, node=node, ids=ids)


def label_of(key: SigningKey) -> Label:
    """The label of a tunnel's key."""
    return label_of_key(key.public)


def tunnel_info(claim: Claim, region: str = "", *, port: int = 0, ticket: bytes = b"") -> TunnelInfo:
    """The tunnel as its home node announces it."""
    return TunnelInfo(
        label=claim.label,
        node=claim.node,
        region=region,
        epoch=claim.epoch,
        claim=claim.encoded,
        options=TunnelOptions.FromString(claim.options),
        unencrypted_port=port,
        ticket=ticket,
    )


def now_ms() -> int:
    """Milliseconds since the Unix epoch, as a registry that runs has them."""
    return time.time_ns() // 1_000_000


@dataclass
class AnnouncedClient:
    """A client as its home node announces it to a registry: its session's signer and its grant.

    now_ms: the time of its presences, each of which is later than the one before.
    """

    signer: SessionSigner
    grant: str
    now_ms: Callable[[], int] = now_ms
    _last_ms: int = 0

    def tunnel(
        self, node: str, key: SigningKey | None = None, epoch: int = 1, *, h2_enabled: bool = False, **more: Any
    ) -> TunnelInfo:
        """A tunnel that is bound at the node, and in each presence at it from now on."""
        unencrypted = "unencrypted_port" in more
        claim = self.signer.claim(key, node=node, epoch=epoch, h2_enabled=h2_enabled, unencrypted=unencrypted)
        info = tunnel_info(claim, "fra")
        info.host = f"{claim.label}.fra.tunnels.example"
        info.opened_at_ms = 1
        info.MergeFrom(TunnelInfo(**more))
        return info

    def close(self, tunnel: TunnelInfo) -> None:
        """Close it: it is in no later presence."""
        self.signer.held[:] = [claim for claim in self.signer.held if claim.encoded != tunnel.claim]

    def session(self, node: str, time_ms: int = 0) -> AnnouncedSession:
        """Its grant, and a presence that lists what it holds at the node; of now unless a time is given."""
        self._last_ms = time_ms or max(self._last_ms + 1, self.now_ms())
        listed = [claim for claim in self.signer.held if claim.node == node]
        ids = frozenset(claim.id for claim in listed)
        presence = sign_presence(self.signer.key, self.signer.cluster, time_ms=self._last_ms, node=node, ids=ids)
        return AnnouncedSession(grant=self.grant, presence=presence.encoded)

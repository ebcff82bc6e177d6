"""What a registry says of the cluster: what all checks begin with.

Here: values. Not here: asking for them (admin_cli/doctor.py).
"""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from portway_proto.v1.admin_pb2 import AuthorityInfo, GetHealthResponse, GrantKeyInfo, ZoneCertificateInfo
from portway_proto.v1.types_pb2 import NodeInfo


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """A registry's answers.

    health: None from a registry of an earlier release. asked_at_ms: this machine's clock, half-way between question and
    answer; round_trip: seconds that the answer took. given_domain: the cluster's, as the caller says it. tunnels: by
    zone (`<region>.<domain>`) the host of a tunnel that is open. obtained: the certificates that registries obtain from
    an ACME server, or should.
    """

    health: GetHealthResponse | None
    nodes: Sequence[NodeInfo]
    authorities: Sequence[AuthorityInfo]
    grant_keys: Sequence[GrantKeyInfo]
    asked_at_ms: int
    round_trip: float
    given_domain: str = ""
    tunnels: Mapping[str, str] = field(default_factory=dict)
    obtained: Sequence[ZoneCertificateInfo] = ()

    @property
    def domain(self) -> str:
        """The domain that was given, that of the registry's settings, or of its nodes; "" when none says one."""
        told = self.given_domain or ("" if self.health is None else self.health.domain)
        return told or next((node.domain for node in self.nodes if node.domain), "")

    @property
    def regions(self) -> list[str]:
        return sorted({node.region for node in self.nodes})


def unknown_label() -> str:
    """A label that no tunnel has, of the form of all: 16 characters for 80 random bits."""
    return base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()

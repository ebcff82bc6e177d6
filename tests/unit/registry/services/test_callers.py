"""The caller, read from the context of a gRPC call."""

import datetime
from collections.abc import Sequence
from typing import Any

import pytest
import trustme
from portway_registry.access.invitations import Invitations
from portway_registry.access.tokens import Tokens, new_token
from portway_registry.errors import CertificateUntrusted, NodeRemoved, NotANode, TokenMissing
from portway_registry.pki.cluster_authority import ClusterAuthority
from portway_registry.pki.signing import Signer
from portway_registry.services.callers import by_certificate, by_token
from portway_registry.state import keys
from portway_registry.state.audit import Audit
from portway_registry.state.records import InvitationRecord, Role, TokenRecord, decoder, encode
from portway_registry.state.views import View
from portway_registry.store.embedded import EmbeddedStore
from portway_runtime.identities import NodeIdentity


class Call:
    """What is asked of a gRPC call's context."""

    def __init__(self, certificate: bytes = b"", metadata: tuple[tuple[str, str], ...] | None = ()) -> None:
        self._certificate = certificate
        self._metadata = metadata

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        return {"x509_pem_cert": [self._certificate]} if self._certificate else {}

    def invocation_metadata(self) -> Any:
        return self._metadata


CA = trustme.CA()


def certificate(*names: str, issued: datetime.datetime | None = None) -> bytes:
    return CA.issue_cert(*names, not_before=issued and issued - datetime.timedelta(hours=1)).cert_chain_pems[0].bytes()


def standing(node: str, issued_ms: int) -> None:
    """Everybody stands."""


def trusted(pem: bytes) -> bool:
    """No CA was retired."""
    return False


@pytest.mark.parametrize(
    ("names", "region"),
    [
        (["fra-1.node.portway.internal"], ""),
        (["10.0.0.1", "fra-1.node.portway.internal"], ""),
        (["fra-1.node.portway.internal", "fra.region.portway.internal"], "fra"),
    ],
)
async def test_a_node_is_who_its_certificate_names(names: list[str], region: str) -> None:
    """The one node name among the certificate's names, the region if there is one, and when it was issued."""
    issued = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    caller = await by_certificate(standing, trusted)(Call(certificate=certificate(*names, issued=issued)))
    assert (caller.role, caller.name, caller.token) == (Role.NODE, "fra-1", None)
    assert caller.certificate == NodeIdentity("fra-1", region, int(issued.timestamp() * 1000))


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(b"", id="none"),
        pytest.param(b"noise", id="no certificate"),
        pytest.param(certificate("localhost"), id="another name"),
        pytest.param(certificate("fra-1.example.com"), id="another domain"),
        pytest.param(certificate("*.node.portway.internal"), id="a wildcard"),
        pytest.param(certificate("a.b.node.portway.internal"), id="two levels"),
        pytest.param(certificate("fra-1.node.portway.internal", "lon-1.node.portway.internal"), id="two nodes"),
        pytest.param(
            certificate("fra-1.node.portway.internal", "fra.region.portway.internal", "lon.region.portway.internal"),
            id="two regions",
        ),
    ],
)
async def test_any_other_certificate_is_no_node_s(shown: bytes) -> None:
    """No name, another name, a wildcard, several nodes at once."""
    with pytest.raises(NotANode, match="portway-admin node invite"):
        await by_certificate(standing, trusted)(Call(certificate=shown))


async def test_a_certificate_that_stands_no_more_lets_nobody_in() -> None:
    """What is known of the name is asked at each call, with when the certificate was issued."""
    asked: list[tuple[str, int]] = []

    def removed(node: str, issued_ms: int) -> None:
        asked.append((node, issued_ms))
        raise NodeRemoved(node)

    issued = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    call = Call(certificate=certificate("fra-1.node.portway.internal", issued=issued))
    for _ in range(2):
        with pytest.raises(NodeRemoved):
            await by_certificate(removed, trusted)(call)
    assert asked == [("fra-1", int(issued.timestamp() * 1000))] * 2


async def test_a_connection_outlives_no_trust_in_its_certificate() -> None:
    """Its CA was retired after the handshake: each further call is refused, whatever the name stands for."""
    shown = certificate("fra-1.node.portway.internal")
    authority = ClusterAuthority(CA.cert_pem.bytes(), None)
    identify = by_certificate(standing, authority.refuses)
    assert (await identify(Call(certificate=shown))).pem == shown
    authority.replace(CA.cert_pem.bytes() + Signer.create().pem, None)
    await identify(Call(certificate=shown))
    authority.replace(Signer.create().pem, None)
    for _ in range(2):
        with pytest.raises(CertificateUntrusted, match="is retired"):
            await identify(Call(certificate=shown))
    authority.replace(CA.cert_pem.bytes(), None)
    await identify(Call(certificate=shown))


async def test_a_client_is_who_its_token_names(memory: EmbeddedStore) -> None:
    """Role and name are the token's; without metadata there is no token."""
    token = new_token(tenant="demo", role=Role.ADMIN, now_ms=1)
    await memory.put(keys.token(token.record.id), encode(token.record))
    view: View[TokenRecord] = View(memory, keys.TOKENS, decoder(TokenRecord), on_failure=print)
    await view.start()
    invited: View[InvitationRecord] = View(memory, keys.INVITATIONS, decoder(InvitationRecord), on_failure=print)
    audit = Audit(memory, lambda: 1)
    identify = by_token(Tokens(memory, view, audit, lambda: 1), Invitations(memory, invited, audit, lambda: 1))
    shown = (("user-agent", "x"), ("authorization", f"Bearer {token.text}"))
    caller = await identify(Call(metadata=shown))
    assert (caller.role, caller.name, caller.token) == (Role.ADMIN, token.record.id, token.record)
    for metadata in ((), None, (("user-agent", "x"),)):
        with pytest.raises(TokenMissing):
            await identify(Call(metadata=metadata))
    await view.close()

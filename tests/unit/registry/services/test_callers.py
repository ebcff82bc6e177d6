"""Who calls, read from what gRPC knows of a call."""

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest
from portway_registry import keys
from portway_registry.errors import NotANode, TokenMissing
from portway_registry.records import Role, TokenRecord, decoder, encode
from portway_registry.services.callers import by_certificate, by_token, peer_address
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.tokens import TokenCheck, make
from portway_registry.views import View


class Call:
    """What is asked of a gRPC call's context."""

    def __init__(
        self, peer: str = "", names: Sequence[bytes] = (), metadata: tuple[tuple[str, str], ...] | None = ()
    ) -> None:
        self._peer = peer
        self._names = names
        self._metadata = metadata

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        return {"x509_subject_alternative_name": self._names} if self._names else {}

    def invocation_metadata(self) -> Any:
        return self._metadata


@pytest.mark.parametrize("names", [[b"fra-1.node.portway.internal"], [b"10.0.0.1", b"fra-1.node.portway.internal"]])
async def test_a_node_is_who_its_certificate_names(names: list[bytes]) -> None:
    """The one node name among the certificate's names."""
    caller = await by_certificate(Call(names=names))
    assert (caller.role, caller.name, caller.token) == (Role.NODE, "fra-1", None)


@pytest.mark.parametrize(
    "names",
    [
        [],
        [b"localhost"],
        [b"fra-1.example.com"],
        [b"*.node.portway.internal"],
        [b"a.b.node.portway.internal"],
        [b".node.portway.internal"],
        [b"\xff\xfe.node.portway.internal"],
        [b"fra-1.node.portway.internal", b"lon-1.node.portway.internal"],
    ],
)
async def test_any_other_certificate_is_no_node_s(names: list[bytes]) -> None:
    """No name, another name, a wildcard, several nodes at once."""
    with pytest.raises(NotANode, match="portway-admin pki node"):
        await by_certificate(Call(names=names))


async def test_a_client_is_who_its_token_names(memory: EmbeddedStore) -> None:
    """Role and name are the token's; without metadata there is no token."""
    token = make(tenant="demo", role=Role.ADMIN, now_ms=1)
    await memory.put(keys.token(token.record.id), encode(token.record))
    view: View[TokenRecord] = View(memory, keys.TOKENS, decoder(TokenRecord), on_failure=print)
    await view.start()
    identify = by_token(TokenCheck(memory, view))
    shown = (("user-agent", "x"), ("authorization", f"Bearer {token.text}"))
    caller = await identify(Call(metadata=shown))
    assert (caller.role, caller.name, caller.token) == (Role.ADMIN, token.record.id, token.record)
    for metadata in ((), None, (("user-agent", "x"),)):
        with pytest.raises(TokenMissing):
            await identify(Call(metadata=metadata))
    await view.close()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:[2001:db8::1]:4711", "2001:db8::1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::ffff:192.0.2.1]:4711", "192.0.2.1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "fe80::1"),
        ("unix:/tmp/socket", None),
        ("", None),
        ("ipv4:garbage", None),
    ],
)
def test_an_address_is_read_however_grpc_writes_it(peer: str, address: str | None) -> None:
    """Both families, escaped or not, with a zone, mapped; anything else has none."""
    found = peer_address(Call(peer))
    assert found == (None if address is None else ipaddress.ip_address(address))

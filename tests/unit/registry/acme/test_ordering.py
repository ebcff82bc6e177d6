"""One order: its TXT records are withdrawn however it ends, and what comes is used only if it is what was ordered."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from portway_registry.acme.ordering import obtain
from portway_registry.acme.server_calls import Order
from portway_registry.errors import AcmeFailed
from portway_registry.pki.signing import Signer, new_key
from portway_runtime.certificates import CertifiedKey
from portway_testkit.links.carrier_link import until

DOMAIN = "tun.example.com"
NAMES = (f"fra.{DOMAIN}", f"*.fra.{DOMAIN}")


class Challenge:
    """A question to DNS."""

    name = f"_acme-challenge.fra.{DOMAIN}"

    def __init__(self, value: str) -> None:
        self.value = value


class Server:
    """An ACME server with a CA, as a Connection and as the DNS that it asks."""

    def __init__(self) -> None:
        self.ca = Signer.create()
        self.records: set[str] = set()
        self.ordered: list[Sequence[str]] = []
        self.answered: list[str] = []
        self.checked = asyncio.Event()
        self.checked.set()
        self.refuses = False
        self.withdrawal_fails = False
        self.issue: Callable[[Any], bytes] = self.region
        self._key: Any = None

    def region(self, key: Any, region: str = "fra", domain: str = DOMAIN) -> bytes:
        return self.ca.region(key, region, domain).public_bytes(Encoding.PEM)

    async def order(self, names: Sequence[str], csr_pem: bytes, replaces: bytes | None) -> Order:
        self.ordered.append(names)
        self._key = x509.load_pem_x509_csr(csr_pem).public_key()
        challenges: Any = (Challenge("one"), Challenge("two"))
        resource: Any = None
        return Order(resource, challenges)

    async def answer(self, challenge: Challenge) -> None:
        assert self.records == {"one", "two"}, "both are published before it looks"
        self.answered.append(challenge.value)

    async def is_checked(self, challenge: Challenge) -> bool:
        if self.refuses:
            raise AcmeFailed("no such record")
        return self.checked.is_set()

    async def finish(self, order: Order, within: float) -> bytes:
        return self.issue(self._key)

    async def publish(self, name: str, value: str) -> None:
        assert name == Challenge.name
        self.records.add(value)

    async def withdraw(self, name: str, value: str) -> None:
        self.records.discard(value)
        if self.withdrawal_fails:
            raise OSError("no")


@pytest.fixture
async def server() -> Server:
    return Server()


async def ordered(server: Any, names: Sequence[str] = NAMES, *, later: timedelta = timedelta()) -> CertifiedKey:
    return await obtain(server, server, names, domain=DOMAIN, replaces=None, now=datetime.now(UTC) + later)


async def test_what_comes_is_the_certificate_with_its_key(server: Server) -> None:
    """The records are gone by then."""
    made = await ordered(server)
    assert load_pem_private_key(made.key, None).public_key() == made.certificate.public_key()
    assert sorted(server.answered) == ["one", "two"]
    assert server.records == set()


@pytest.mark.parametrize(
    ("sent", "complaint"),
    [
        (lambda server, key: b"no certificate", "cannot be read"),
        (lambda server, key: b"", "cannot be read"),
        (lambda server, key: server.region(new_key().public_key()), "for another key"),
        (lambda server, key: server.region(key, "iad"), "sent a certificate for"),
        (lambda server, key: server.region(key, "fra", "evil.example"), "sent a certificate for"),
    ],
)
async def test_anything_else_is_not_used(server: Server, sent: Callable[[Server, Any], bytes], complaint: str) -> None:
    """A server, or whoever is in its place, hands over what it likes."""
    server.issue = lambda key: sent(server, key)
    with pytest.raises(AcmeFailed, match=complaint):
        await ordered(server)
    assert server.records == set()


async def test_one_that_has_ended_is_not_used(server: Server) -> None:
    """By this machine's clock, which may be wrong."""
    with pytest.raises(AcmeFailed, match="clock"):
        await ordered(server, later=timedelta(days=10_000))


async def test_the_records_go_with_an_order_that_fails(server: Server) -> None:
    """And that they could not be withdrawn is not the reason that is told."""
    server.refuses = server.withdrawal_fails = True
    with pytest.raises(AcmeFailed, match="no such record"):
        await ordered(server)
    assert server.records == set()


async def test_the_records_go_with_an_order_that_is_cancelled(server: Server) -> None:
    """As when the turn is lost, or the registry stops."""
    server.checked.clear()
    order = asyncio.ensure_future(ordered(server))
    await until(lambda: len(server.answered) == 2)
    order.cancel()
    with pytest.raises(asyncio.CancelledError):
        await order
    assert server.records == set()


@pytest.mark.parametrize("name", [f"{'a' * 16}.fra.{DOMAIN}", f"*.{'a' * 16}.fra.{DOMAIN}", f"*.{DOMAIN}"])
async def test_a_label_is_never_in_an_order(server: Server, name: str) -> None:
    """The server hears nothing of it."""
    with pytest.raises(ValueError, match="would be published"):
        await ordered(server, [*NAMES, name])
    assert server.ordered == []

"""Tickets: what a node of the cluster signed for this region is read, and nothing else."""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from portway_relay.certificates import LoadedCertificates
from portway_relay.raw_ports.tickets import TYPE, Ticket, Tickets
from portway_runtime.certificates import CertifiedKey
from portway_runtime.clocks import RegistryClock
from portway_runtime.identities import dns_names
from portway_testkit.fakes.clock import ManualClock

LABEL = "k5zq2w7b3xav6mdy"
PORT = 23_456
NODE = "relay-1.node.portway.internal"
DAY = 24 * 3600.0
# ecdsa-with-SHA256, and an identifier of the same length that nobody has given a meaning.
SHA256_WITH_ECDSA = bytes.fromhex("2a8648ce3d040302")
UNKNOWN_ALGORITHM = bytes.fromhex("2a8648ce3d04037f")


@dataclass(frozen=True)
class Signer:
    """A node's certificate and key, and the CA that the cluster trusts."""

    loaded: LoadedCertificates

    @property
    def key(self) -> Any:
        return load_pem_private_key(self.loaded.node.key, password=None)

    @property
    def certificate(self) -> bytes:
        return self.loaded.node.certificate.public_bytes(serialization.Encoding.DER)

    def tickets(self, clock: ManualClock, region: str = "fra") -> Tickets:
        (name, *_) = dns_names(self.loaded.node.certificate)
        node = name.removesuffix(".node.portway.internal")
        return Tickets(node, region, lambda: self.loaded, clock, RegistryClock(clock, clock))


def signer(ca: trustme.CA, leaf: trustme.LeafCert, trusted: trustme.CA | None = None) -> Signer:
    chain = leaf.cert_chain_pems[0].bytes()
    identity = CertifiedKey(chain, leaf.private_key_pem.bytes(), x509.load_pem_x509_certificate(chain))
    ca_pem = (trusted or ca).cert_pem.bytes()
    authorities = (x509.load_pem_x509_certificate(ca_pem),)
    return Signer(LoadedCertificates(ca_pem, authorities, identity, {}, {}, {}))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def node(authority: trustme.CA) -> Signer:
    return signer(authority, authority.issue_cert(NODE))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


def read(tickets: Tickets, ticket: bytes) -> Ticket:
    unchecked = tickets.unchecked(ticket)
    assert unchecked.is_genuine()
    assert unchecked.ticket is not None
    return unchecked.ticket


def reason(tickets: Tickets, ticket: bytes) -> str:
    unchecked = tickets.unchecked(ticket)
    assert not unchecked.is_genuine()
    assert unchecked.ticket is None
    return unchecked.failure


def forged(key: Any, certificate: bytes, *, headers: dict[str, Any] | None = None, **claims: Any) -> bytes:
    """A ticket of one's own making."""
    told = {"label": LABEL, "region": "fra", "port": PORT, "iat": 1} | claims
    x5c = [base64.b64encode(certificate).decode()]
    return jwt.encode(told, key, algorithm="ES256", headers={"typ": TYPE, "x5c": x5c} | (headers or {})).encode()


def test_a_ticket_names_its_port(node: Signer, clock: ManualClock) -> None:
    """What a node signs, it reads again; it fits into a BIND."""
    tickets = node.tickets(clock)
    ticket = tickets.sign(LABEL, PORT)
    assert 0 < len(ticket.encoded) <= 4096
    assert read(tickets, ticket.encoded) == ticket
    assert (ticket.label, ticket.port, ticket.node) == (LABEL, PORT, "relay-1")
    assert ticket.time_ms == int(clock() * 1000)
    assert tickets.sign(LABEL, PORT).time_ms > ticket.time_ms, "of two the later one is told"


def test_another_node_of_the_region_takes_it(authority: trustme.CA, node: Signer, clock: ManualClock) -> None:
    """The certificate rides along: nodes need only their CA in common."""
    other = signer(authority, authority.issue_cert("relay-2.node.portway.internal"))
    assert read(other.tickets(clock), node.tickets(clock).sign(LABEL, PORT).encoded).port == PORT


def test_it_is_for_one_region(node: Signer, clock: ManualClock) -> None:
    """Shown in another region, it says nothing."""
    ticket = node.tickets(clock).sign(LABEL, PORT).encoded
    assert "for this region" in reason(node.tickets(clock, region="ams"), ticket)


def test_another_cluster_is_not_believed(authority: trustme.CA, clock: ManualClock) -> None:
    """Neither a CA of another name nor one of the same is taken for ours."""
    strange = trustme.CA()
    ticket = signer(strange, strange.issue_cert(NODE)).tickets(clock).sign(LABEL, PORT).encoded
    assert "not signed by this cluster's CA" in reason(
        signer(authority, authority.issue_cert(NODE)).tickets(clock), ticket
    )


def test_a_namesake_of_the_ca_is_not_believed(authority: trustme.CA, node: Signer, clock: ManualClock) -> None:
    """A certificate that only names our CA as its issuer was not signed by it."""
    ours = node.loaded.authorities[0]
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(NODE)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(ours.subject)
        .issuer_name(ours.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    ticket = forged(key, certificate.public_bytes(serialization.Encoding.DER))
    assert "not signed by this cluster's CA" in reason(node.tickets(clock), ticket)


@pytest.mark.parametrize("days", [-2, 2])
def test_a_certificate_outside_its_time_is_not_believed(authority: trustme.CA, clock: ManualClock, days: int) -> None:
    """The time that counts is that of whoever is shown the ticket."""
    now = datetime.fromtimestamp(clock(), UTC)
    leaf = authority.issue_cert(NODE, not_before=now - timedelta(days=1), not_after=now + timedelta(days=1))
    node = signer(authority, leaf)
    ticket = node.tickets(clock).sign(LABEL, PORT).encoded
    assert read(node.tickets(clock), ticket).port == PORT
    clock.now += days * DAY
    assert "expired" in reason(node.tickets(clock), ticket)


def test_only_nodes_sign_tickets(authority: trustme.CA, node: Signer, clock: ManualClock) -> None:
    """Another certificate of the cluster's CA, a registry's say, does not make a node."""
    registry = signer(authority, authority.issue_cert("registry.example.com"))
    assert "not signed by a node" in reason(node.tickets(clock), registry.tickets(clock).sign(LABEL, PORT).encoded)


def test_a_key_of_another_kind_makes_no_ticket(authority: trustme.CA, node: Signer, clock: ManualClock) -> None:
    """A node with an RSA key gives none; its certificate under somebody's ticket is refused."""
    rsa = signer(authority, authority.issue_cert(NODE, key_type=trustme.KeyType.RSA))
    assert rsa.tickets(clock).sign(LABEL, PORT).encoded == b""
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert "wrong kind" in reason(node.tickets(clock), forged(stranger, rsa.certificate))


def test_a_longer_curve_makes_no_ticket(authority: trustme.CA, clock: ManualClock) -> None:
    """ES256 is P-256 and nothing else."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    usual = signer(authority, authority.issue_cert(NODE))
    node = CertifiedKey(usual.loaded.node.chain, pem, usual.loaded.node.certificate)
    loaded = LoadedCertificates(usual.loaded.ca, usual.loaded.authorities, node, {}, {}, {})
    assert Signer(loaded).tickets(clock).sign(LABEL, PORT).encoded == b""


def test_a_signature_must_be_the_certificates(node: Signer, clock: ManualClock) -> None:
    """A node's certificate is public: without its key nobody signs in its name."""
    stranger = ec.generate_private_key(ec.SECP256R1())
    assert "not a ticket" in reason(node.tickets(clock), forged(stranger, node.certificate))


def test_a_changed_ticket_is_refused(node: Signer, clock: ManualClock) -> None:
    """Whichever character is another one, the ticket is none, or says what it said."""
    tickets = node.tickets(clock)
    ticket = tickets.sign(LABEL, PORT).encoded
    head, claims, signature = ticket.split(b".")
    other = json.dumps({"label": LABEL, "region": "fra", "port": PORT + 1}).encode()
    changed = base64.urlsafe_b64encode(other).rstrip(b"=")
    assert "not a ticket" in reason(tickets, b".".join((head, changed, signature)))
    assert "not a ticket" in reason(tickets, b".".join((head, claims, signature[::-1])))
    assert "not a ticket" in reason(tickets, b".".join((head, claims, b"")))


def test_the_algorithm_is_not_the_tickets_to_choose(node: Signer, clock: ManualClock) -> None:
    """`none`, or a shared secret made of the public key, signs nothing."""
    head = {"alg": "none", "typ": TYPE, "x5c": [base64.b64encode(node.certificate).decode()]}
    claims = {"label": LABEL, "region": "fra", "port": PORT}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, claims)]
    assert "not a ticket" in reason(node.tickets(clock), b".".join((*parts, b"")))


@pytest.mark.parametrize("kind", ["JWT", "portway-grant", None])
def test_what_was_signed_for_something_else_is_no_ticket(node: Signer, clock: ManualClock, kind: str | None) -> None:
    """A node's key may come to sign other things."""
    ticket = forged(node.key, node.certificate, headers={"typ": kind})
    assert "for this region" in reason(node.tickets(clock), ticket)


@pytest.mark.parametrize("port", [0, -1, 65_536, "23456", None, 1.5, [1]])
def test_a_port_must_be_one(node: Signer, clock: ManualClock, port: object) -> None:
    """Whatever a node signed by mistake, no port outside 1 to 65535 comes out."""
    assert "without a port" in reason(node.tickets(clock), forged(node.key, node.certificate, port=port))


@pytest.mark.parametrize("time_ms", [None, "1", 1.5, [1]])
def test_a_ticket_without_its_time_is_none(node: Signer, clock: ManualClock, time_ms: object) -> None:
    """Of two tickets for a port the later one counts."""
    assert reason(node.tickets(clock), forged(node.key, node.certificate, iat=time_ms))


@pytest.mark.parametrize(
    "x5c",
    [[], [""], ["!"], ["AAAA"], "MIIB", {}, {"0": "AAAA"}, None, 7, [7], [None], [["AAAA"]]],
    ids=repr,
)
def test_a_certificate_that_cannot_be_read_is_no_certificate(node: Signer, clock: ManualClock, x5c: object) -> None:
    """Headers are what their sender wants them to be."""
    ticket = forged(node.key, node.certificate, headers={"x5c": x5c})
    assert "not a ticket" in reason(node.tickets(clock), ticket)


def test_a_certificate_signed_in_an_unknown_way_is_not_believed(node: Signer, clock: ManualClock) -> None:
    """An algorithm that nobody knows is one more reason, not an accident."""
    strange = node.certificate.replace(SHA256_WITH_ECDSA, UNKNOWN_ALGORITHM)
    assert strange != node.certificate
    assert reason(node.tickets(clock), forged(node.key, strange))


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@pytest.mark.parametrize(
    "ticket",
    [
        b"",
        b".",
        b"..",
        b"...",
        b"a.b.c",
        b"\xff\xfe\xfd",
        "ticket.für.mich".encode(),
        _b64(b"[]") + b".e30.",
        _b64(b"null") + b".e30.",
        _b64(b"7") + b".e30.",
        _b64(b"{}") + b".e30.",
        _b64(b'{"alg":7,"x5c":["AAAA"]}') + b".e30.",
        _b64(b"[" * 2900) + b".e30.",
        _b64(b'{"a":' * 580) + b".e30.",
    ],
    ids=lambda ticket: ticket[:12].hex() or "nothing",
)
def test_garbage_is_no_ticket(node: Signer, clock: ManualClock, ticket: bytes) -> None:
    """Any bytes at all are refused in the one way that a ticket can be."""
    assert "not a ticket" in reason(node.tickets(clock), ticket)


def test_what_is_too_long_is_not_read(node: Signer, clock: ManualClock) -> None:
    """Above the size of any ticket nothing is decoded, even if it was signed well."""
    ticket = forged(node.key, node.certificate, filling="x" * 4096)
    assert "longer than 4096 bytes" in reason(node.tickets(clock), ticket)


def test_new_certificates_sign_at_once(authority: trustme.CA, clock: ManualClock) -> None:
    """Whatever is loaded when a ticket is signed or read counts."""
    loaded: list[LoadedCertificates] = [signer(authority, authority.issue_cert(NODE)).loaded]
    newest: Callable[[], LoadedCertificates] = lambda: loaded[-1]  # noqa: E731 - named for its type
    tickets = Tickets("relay-1", "fra", newest, clock, RegistryClock(clock, clock))
    before = tickets.sign(LABEL, PORT).encoded
    loaded.append(signer(authority, authority.issue_cert(NODE)).loaded)
    assert read(tickets, before).port == PORT
    strange = trustme.CA()
    loaded.append(signer(strange, strange.issue_cert(NODE)).loaded)
    assert "not signed by this cluster's CA" in reason(tickets, before)
    assert read(tickets, tickets.sign(LABEL, PORT).encoded).port == PORT

"""Certificates that no library reads: every reader of a peer's certificate refuses them as it refuses a stranger's.

TLS checks the certificates of lanes and of the mesh port before they are read. A raw port's ticket carries one that
nobody has checked, and so does a request to join, which is signed like a certificate.
"""

import base64
import datetime
import time
from collections.abc import Sequence
from pathlib import Path

import jwt
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from portway_registry.errors import NotANode, PkiError
from portway_registry.pki.signing import requested_key
from portway_registry.services.callers import by_certificate
from portway_relay.certificates import LoadedCertificates
from portway_relay.errors import JoinError
from portway_relay.membership.state_folder import CERTIFICATE, CURRENT, StateFolder
from portway_relay.raw_ports.tickets import TYPE, Tickets
from portway_runtime.certificates import CertifiedKey, NamedFile, issued_by, parse_certificates
from portway_runtime.clocks import RegistryClock
from portway_runtime.errors import CertificateError
from portway_runtime.identities import dns_names, read_identity_der
from portway_testkit.fakes.clock import ManualClock

NODE = "fra-1.node.portway.internal"
AUTHORITY = trustme.CA()
LEAF = AUTHORITY.issue_cert(NODE)
SOUND = x509.load_pem_x509_certificate(LEAF.cert_chain_pems[0].bytes())
DER = SOUND.public_bytes(serialization.Encoding.DER)

_VERSION_3 = bytes.fromhex("a003020102")
_VERSION_5 = bytes.fromhex("a003020104")
_KEY_ID_OF_ISSUER = bytes.fromhex("0603551d23")
_OTHER_NAMES = bytes.fromhex("0603551d11")
# Whole: its first two bytes alone are in one key or signature of some 400, too.
_NAME = b"\x82" + bytes([len(NODE)]) + NODE.encode()


def _edited(old: bytes, new: bytes) -> bytes:
    assert DER.count(old) == 1
    return DER.replace(old, new)


def _at_the_end_of_time() -> bytes:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    last = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, last, last)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NODE)]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


UNREADABLE = {
    "noise": b"noise",
    "half": DER[: len(DER) // 2],
    "version 5": _edited(_VERSION_3, _VERSION_5),
    "its names twice": _edited(_KEY_ID_OF_ISSUER, _OTHER_NAMES),
    "a name of a kind without meaning": _edited(_NAME, b"\xa3" + _NAME[1:]),
    "a date that does not exist": _edited(
        b"\x17\x0d" + SOUND.not_valid_before_utc.strftime("%y%m%d%H%M%SZ").encode(), b"\x17\x0d991399000000Z"
    ),
    "the last second of all years": _at_the_end_of_time(),
}


@pytest.fixture
def tickets() -> Tickets:
    """A node's tickets, with a certificate that is sound."""
    chain, key = LEAF.cert_chain_pems[0].bytes(), LEAF.private_key_pem.bytes()
    ca = AUTHORITY.cert_pem.bytes()
    authorities = (x509.load_pem_x509_certificate(ca),)
    loaded = LoadedCertificates(ca, authorities, CertifiedKey(chain, key, SOUND), {}, {}, {})
    clock = ManualClock(time.time())
    return Tickets("fra-1", "fra", lambda: loaded, clock, RegistryClock(clock, clock))


def pem(der: bytes) -> bytes:
    body = base64.encodebytes(der)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_ticket_with_such_a_certificate_is_invalid(tickets: Tickets, kind: str) -> None:
    """A client sends it, and the node answers as to any other invalid one: with another port."""
    key = ec.generate_private_key(ec.SECP256R1())
    headers = {"typ": TYPE, "x5c": [base64.b64encode(UNREADABLE[kind]).decode()]}
    claims = {"label": "k5zq2w7b3xav6mdy", "region": "fra", "port": 20_001, "iat": 1}
    ticket = jwt.encode(claims, key, algorithm="ES256", headers=headers).encode()
    assert not tickets.unchecked(ticket).is_genuine()


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_such_a_certificate_identifies_nobody(kind: str) -> None:
    """Neither on a mesh lane nor at the registry's mesh port."""

    class Call:
        def peer(self) -> str:
            return "ipv4:192.0.2.1:1"

        def auth_context(self) -> dict[str, Sequence[bytes]]:
            return {"x509_pem_cert": [pem(UNREADABLE[kind])]}

        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            return ()

    assert read_identity_der(UNREADABLE[kind]) is None
    with pytest.raises(NotANode):
        await by_certificate(lambda node, issued_ms: None, lambda pem: False)(Call())


@pytest.mark.parametrize("kind", ["noise", "half", "version 5"])
def test_such_a_certificate_in_a_file_is_an_error_in_words(tmp_path: Path, kind: str) -> None:
    """What a registry has sent is in the node's state folder when it starts again."""
    current = tmp_path / CURRENT
    current.mkdir()
    (current / CERTIFICATE).write_bytes(pem(UNREADABLE[kind]))
    with pytest.raises(JoinError, match="is not a certificate"):
        StateFolder(tmp_path).certificate()
    with pytest.raises(CertificateError, match="holds no certificate"):
        parse_certificates(pem(UNREADABLE[kind]), NamedFile(current / CERTIFICATE))


@pytest.mark.parametrize("kind", ["its names twice", "a name of a kind without meaning"])
def test_extensions_that_cannot_be_read_name_nobody(kind: str) -> None:
    """The certificate itself is readable."""
    certificate = x509.load_der_x509_certificate(UNREADABLE[kind])
    assert dns_names(certificate) == []
    assert not issued_by(certificate, [x509.load_pem_x509_certificate(AUTHORITY.cert_pem.bytes())])


def test_a_certificate_request_of_another_version_is_refused() -> None:
    """Whoever has an invitation sends one to the registry."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    der = request.public_bytes(serialization.Encoding.DER)
    version = der.index(b"\x02\x01\x00")
    for unreadable in (der[:version] + b"\x02\x01\x04" + der[version + 3 :], der[:40], b"noise"):
        with pytest.raises(PkiError):
            requested_key(unreadable)
    assert requested_key(der) is not None

"""Groups and suites: what a restricted context accepts."""

import ssl

import pytest
import trustme
from portway_runtime import tls_choices
from portway_runtime.tls_choices import Group, restrict, restrict_client
from portway_testkit.visitors.hellos import canned


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server(authority: trustme.CA, group: Group) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("node.test").configure_cert(context)
    restrict(context, group)
    return context


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """The client's end after the handshake. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname="node.test"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    return ends[0]


def client(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("group", Group)
def test_usual_clients_are_accepted_with_each_group(
    authority: trustme.CA, group: Group, version: ssl.TLSVersion
) -> None:
    """By either version of TLS, with ECDHE and AEAD."""
    visitor = client(authority)
    visitor.minimum_version = visitor.maximum_version = version
    cipher = shake_hands(server(authority, group), visitor).cipher()
    assert cipher is not None
    assert cipher[0].startswith(("TLS_", "ECDHE-"))
    assert "GCM" in cipher[0] or "CHACHA20" in cipher[0]


@pytest.mark.parametrize("curve", ["secp384r1", "secp521r1"])
def test_p256_is_the_only_group(authority: trustme.CA, curve: str) -> None:
    """Of a context that is restricted to it."""
    visitor = client(authority)
    visitor.set_ecdh_curve(curve)
    with pytest.raises(ssl.SSLError):
        shake_hands(server(authority, Group.P256), visitor)


@pytest.mark.parametrize("suite", ["DHE-RSA-AES128-GCM-SHA256", "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256"])
def test_no_other_suite_is_accepted(authority: trustme.CA, suite: str) -> None:
    """No finite field, no key exchange without forward secrecy, no CBC."""
    visitor = client(authority)
    visitor.maximum_version = ssl.TLSVersion.TLSv1_2
    visitor.set_ciphers(suite)
    with pytest.raises(ssl.SSLError):
        shake_hands(server(authority, Group.P256), visitor)


def test_a_client_sends_a_share_that_it_is_held_to(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """X25519 where OpenSSL sends it by itself. Where it does not, as under FIPS rules, P-256 is all that is offered."""
    dialler = client(authority)
    restrict_client(dialler)
    assert b"\x00\x1d\x00\x20" in hello_of(dialler)
    monkeypatch.setattr(tls_choices, "_X25519_SHARE", b"no such share in any hello")
    restrict_client(dialler)
    assert b"\x00\x1d\x00\x20" not in hello_of(dialler)
    assert b"\x00\x0a\x00\x04\x00\x02\x00\x17" in hello_of(dialler), "the groups are not P-256 alone"


def hello_of(context: ssl.SSLContext) -> bytes:
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="node.test").do_handshake()
    return sent.read()


def test_finite_fields_are_refused(authority: trustme.CA) -> None:
    """A hello that OpenSSL's defaults answer with a key exchange of 8,192 bits gets an alert."""
    hello = canned("node.test", [0x0104], [(0x0104, bytes(1023) + b"\x04")])
    usual = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("node.test").configure_cert(usual)
    assert answered(usual, hello)[:1] == b"\x16"
    assert answered(server(authority, Group.P256), hello)[:1] == b"\x15"


def answered(context: ssl.SSLContext, hello: bytes) -> bytes:
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    received.write(hello)
    try:
        context.wrap_bio(received, sent, server_side=True).do_handshake()
    except ssl.SSLError:
        pass
    return sent.read()

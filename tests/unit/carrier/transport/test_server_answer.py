"""The first bytes of a server's answer: what fits, what does not, and what is not known yet."""

import ssl

import pytest
import trustme
from portway_carrier.python.transport.server_answer import Verdict, look_at
from portway_testkit.visitors.hellos import real_hello

LOOKED_AT = 43  # bytes


@pytest.fixture(scope="module")
def context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("node.test").configure_cert(context)
    return context


def answer(context: ssl.SSLContext) -> bytes:
    """What a server says to a hello with a key share of X25519."""
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    received.write(real_hello("node.test"))
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(received, sent, server_side=True).do_handshake()
    return sent.read()


def test_the_answer_to_the_key_share_fits(context: ssl.SSLContext) -> None:
    """As soon as it is certain."""
    found = answer(context)
    assert {look_at(found[:size]) for size in range(LOOKED_AT)} == {Verdict.MORE}
    assert look_at(found[:LOOKED_AT]) is look_at(found) is Verdict.FITS


def test_another_group_does_not_fit(context: ssl.SSLContext) -> None:
    """Nor does a form that could hide the question for one: small records, other messages before it."""
    context.set_ecdh_curve("secp384r1")
    retry = answer(context)
    assert look_at(retry[: LOOKED_AT - 1]) is Verdict.MORE
    assert look_at(retry) is Verdict.UNFIT
    in_small_records = b"".join(b"\x16\x03\x03\x00\x01" + retry[at : at + 1] for at in range(5, 50))
    for hidden in (in_small_records, b"\x16\x03\x03\x00\x04" + bytes(4) + retry, b"\x14\x03\x03\x00\x01\x01" + retry):
        assert look_at(hidden) is Verdict.UNFIT


def test_an_alert_is_whole() -> None:
    """A node's refusal; what follows a warning is looked at anew."""
    alert = b"\x15\x03\x03\x00\x02\x02\x28"
    assert look_at(alert[:-1]) is Verdict.MORE
    assert look_at(alert) is look_at(alert + b"more") is Verdict.ALERT


def test_what_is_not_tls_is_for_openssl_to_name() -> None:
    """So the error says what the peer is."""
    assert look_at(b"HTTP/1.1 400 Bad Request\r\n") is Verdict.FITS

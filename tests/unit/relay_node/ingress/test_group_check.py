"""A node does not serve with an OpenSSL that would use other groups than it chooses."""

import ssl

import pytest
from portway_relay.ingress import group_check
from portway_relay.ingress.group_check import fault
from portway_runtime.tls_choices import Group


def test_openssl_as_it_is_will_do() -> None:
    """Its own list begins with X25519, or it can be set to it."""
    assert fault() == ""


def test_a_configuration_that_prefers_others_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an OPENSSL_CONF with Groups that begin with P-384 would have it."""

    def other(context: ssl.SSLContext, group: Group) -> None:
        context.set_ecdh_curve("secp384r1")

    monkeypatch.setattr(group_check, "restrict", other)
    assert "OPENSSL_CONF" in fault()

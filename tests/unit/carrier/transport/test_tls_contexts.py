"""TLS contexts are made without a disk, kept once prepared, and made again from nothing that ran out meanwhile."""

import os
import resource
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from portway_carrier.errors import TlsSettingsError
from portway_carrier.python.transport.tls_contexts import TlsContexts
from portway_carrier.values import ClientTls, ServerTls
from portway_proto.wire.limits import LINK_ALPN, MESH_ALPN

AUTHORITY = trustme.CA()


def server_tls(alpn: str | None = None) -> ServerTls:
    leaf = AUTHORITY.issue_cert("node.test")
    return ServerTls(leaf.cert_chain_pems[0].bytes(), leaf.private_key_pem.bytes(), alpn=alpn)


def client_tls(server_name: str, identity: ServerTls) -> ClientTls:
    ca = AUTHORITY.cert_pem.bytes()
    return ClientTls(ca, server_name, MESH_ALPN, identity.certificate, identity.key)


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def no_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nowhere is room for a temporary file."""
    missing = str(tmp_path / "missing")
    monkeypatch.setenv("TMPDIR", missing)
    monkeypatch.setattr(tempfile, "tempdir", missing)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")
@pytest.mark.usefixtures("no_temporary_folder")
def test_keys_need_no_temporary_folder() -> None:
    """A key reaches OpenSSL through memory alone, at a server and at a client."""
    contexts, identity = TlsContexts(), server_tls()
    assert contexts.get(identity).get_ca_certs() == []
    assert len(contexts.get(client_tls("a.test", identity)).get_ca_certs()) == 1


def test_nothing_stays_open_or_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With memfd_create, and on a system without it, whose temporary file is this user's alone and goes at once."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(Path("/dev/fd").iterdir())
    TlsContexts().get(server_tls())
    monkeypatch.delattr(os, "memfd_create", raising=False)
    modes, load = [], ssl.SSLContext.load_cert_chain

    def watched(context: ssl.SSLContext, path: str) -> None:
        modes.append(Path(path).stat().st_mode & 0o777)
        load(context, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    TlsContexts().get(server_tls())
    assert modes == [0o600]
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/dev/fd").iterdir()) <= before


@pytest.mark.usefixtures("no_temporary_folder")
def test_a_system_without_files_in_memory_says_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may succeed later, and the error says so."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(TlsSettingsError, match="cannot be loaded now: No such file") as caught:
        TlsContexts().get(server_tls())
    assert caught.value.exhausted


def test_what_was_prepared_needs_nothing_more() -> None:
    """Neither a descriptor nor room in the cache, however many other settings are used in between."""
    contexts, one, two = TlsContexts(), server_tls(), server_tls(LINK_ALPN)
    contexts.prepare([one, two])
    first = contexts.get(one)
    for number in range(200):
        contexts.get(ClientTls(AUTHORITY.cert_pem.bytes(), "", f"other-{number}"))
    with no_descriptors():
        assert contexts.get(one) is first
        contexts.get(two)
        with pytest.raises(TlsSettingsError, match="cannot be loaded now: Too many open files") as caught:
            contexts.get(replace(one, alpn="h2"))
    assert caught.value.exhausted


def test_settings_that_cannot_be_prepared_leave_the_old_ones() -> None:
    """All or nothing; contexts of unchanged settings are not made again."""
    contexts, old, new = TlsContexts(), server_tls(), server_tls()
    contexts.prepare([old])
    kept = contexts.get(old)
    with no_descriptors(), pytest.raises(TlsSettingsError):
        contexts.prepare([old, new])
    with pytest.raises(TlsSettingsError, match="cannot be used together") as caught:
        contexts.prepare([new, replace(new, key=old.key)])
    assert not caught.value.exhausted
    with no_descriptors():
        assert contexts.get(old) is kept
    contexts.prepare([old, new])
    assert contexts.get(old) is kept
    contexts.prepare([new])
    with no_descriptors(), pytest.raises(TlsSettingsError):
        contexts.get(old)


def test_one_context_serves_the_lanes_to_every_peer() -> None:
    """The name of a server belongs to a connection: a mesh of any size takes one context."""
    contexts, identity = TlsContexts(), server_tls()
    contexts.prepare([client_tls("", identity)])
    assert contexts.get(client_tls("a.test", identity)) is contexts.get(client_tls("b.test", identity))

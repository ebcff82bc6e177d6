"""A registry whose certificate is from a company's CA, which the system knows and nobody names to the client."""

from pathlib import Path
from typing import Any

import portway
import pytest
import trustme
from portway_testkit.fakes.fake_node import FakeNode

pytestmark = pytest.mark.shares_sockets


@pytest.fixture
def unnamed(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The CA's file, with PORTWAY_CA unset."""
    monkeypatch.delenv("PORTWAY_CA")
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)  # it would come first
    return Path(environment["PORTWAY_CA"])


def test_the_systems_ca_is_trusted(
    unnamed: Path, node: FakeNode, echo: Any, exchange: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As curl trusts it. Nodes are verified with the cluster's CA, as ever."""
    monkeypatch.setenv("SSL_CERT_FILE", str(unnamed))
    with portway.forward(echo.port) as tunnel:
        assert exchange(node, tunnel.host, b"hello") == b"hello"


def test_a_ca_that_the_system_does_not_have_is_not(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable that names one."""
    other = unnamed.with_name("other.pem")
    trustme.CA().cert_pem.write_to_path(str(other))
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    with pytest.raises(portway.UnreachableError, match="not trusted: check PORTWAY_CA"), portway.forward(8000):
        pass


def test_a_list_that_cannot_be_read_is_told(unnamed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(portway.ConfigError, match=r"/nowhere/ca.pem, which SSL_CERT_FILE names.*PORTWAY_CA"):
        with portway.forward(8000):
            pass

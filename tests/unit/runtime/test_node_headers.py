"""The PROXY headers of nodes: what is written is read, and proved by one key for one replica alone."""

import dataclasses

import pytest
from portway_runtime.endpoints import Endpoint
from portway_runtime.node_headers import (
    MAX_NAME,
    NONCE_SIZE,
    PROOF,
    is_proved,
    node_key,
    read_proof,
    write_header,
)
from portway_runtime.proxy_protocol import Parsed, ProxyHeader, encode_v2, parse

SECRET = bytes(range(32))
KEY = node_key(SECRET, "fra-1", 5)
NONCE = bytes(range(NONCE_SIZE))
V4 = (Endpoint("203.0.113.9", 50_000), Endpoint("198.51.100.1", 443))
V6 = (Endpoint("2001:db8::9", 50_000), Endpoint("2001:db8:1::1", 443))
MIXED = (Endpoint("203.0.113.9", 50_000), Endpoint("2001:db8:1::1", 443))


def header_of(data: bytes) -> ProxyHeader:
    found = parse(data)
    assert isinstance(found, Parsed)
    assert found.length == len(data)
    return found.header


def written(source: Endpoint, destination: Endpoint, replica: str = "replica-1") -> ProxyHeader:
    return header_of(write_header(KEY, "fra-1", replica, source, destination, 7, NONCE))


@pytest.mark.parametrize(("source", "destination"), [V4, V6, MIXED])
def test_what_a_node_writes_is_read_and_proved(source: Endpoint, destination: Endpoint) -> None:
    """Addresses of either family, and of both: a dual-stack node behind an address translation has such ones."""
    header = written(source, destination)
    proof = read_proof(header)
    assert proof is not None
    assert (header.source, header.destination) == (source, destination)
    assert (proof.node, proof.time_ms, proof.nonce) == ("fra-1", 7, NONCE)
    assert is_proved(proof, KEY, "replica-1", header)


def test_zones_of_addresses_are_not_told() -> None:
    """They mean nothing on another machine, and the header is proved without."""
    header = written(Endpoint("fe80::1%eth0", 1), Endpoint("fe80::2", 443))
    proof = read_proof(header)
    assert proof is not None
    assert header.source == Endpoint("fe80::1", 1)
    assert is_proved(proof, KEY, "replica-1", header)


@pytest.mark.parametrize(
    ("key", "replica"),
    [
        (KEY, "replica-2"),
        (KEY, "replica-"),
        (node_key(SECRET, "fra-2", 5), "replica-1"),
        (node_key(SECRET, "fra-1", 6), "replica-1"),
        (node_key(bytes(32), "fra-1", 5), "replica-1"),
    ],
)
def test_another_key_or_replica_proves_nothing(key: bytes, replica: str) -> None:
    """Nor does the key of the node that had the name before."""
    header = written(*V4)
    proof = read_proof(header)
    assert proof is not None
    assert not is_proved(proof, key, replica, header)


def test_no_field_can_be_changed() -> None:
    """Neither address, port, time, number, nor the name of the node."""
    header = written(*V4)
    proof = read_proof(header)
    assert proof is not None
    source, destination = V4
    for changed in (
        ProxyHeader(Endpoint("203.0.113.10", source.port), destination, header.tlvs),
        ProxyHeader(Endpoint(source.host, 50_001), destination, header.tlvs),
        ProxyHeader(source, Endpoint("198.51.100.2", 443), header.tlvs),
        ProxyHeader(source, Endpoint(destination.host, 444), header.tlvs),
        ProxyHeader(*V6, header.tlvs),
    ):
        assert not is_proved(proof, KEY, "replica-1", changed)
    for other in (
        dataclasses.replace(proof, time_ms=8),
        dataclasses.replace(proof, nonce=bytes(NONCE_SIZE)),
        dataclasses.replace(proof, node="fra-2"),
        dataclasses.replace(proof, code=bytes(32)),
    ):
        assert not is_proved(other, KEY, "replica-1", header)


@pytest.mark.parametrize(
    "tlvs",
    [
        (),
        ((PROOF, b""),),
        ((PROOF, bytes(56)),),
        ((PROOF, bytes(56) + b"\xff"),),
        ((PROOF, bytes(56) + b"n" * (MAX_NAME + 1)),),
        ((PROOF, bytes(56) + b"n"), (PROOF, bytes(56) + b"n")),
        ((0xE2, bytes(56) + b"n"),),
    ],
)
def test_a_header_without_one_whole_proof_has_none(tlvs: tuple[tuple[int, bytes], ...]) -> None:
    """Of two it would depend on the reader which one counts."""
    assert read_proof(header_of(encode_v2(ProxyHeader(*V4, tlvs)))) is None


def test_a_header_without_addresses_has_no_proof() -> None:
    """It would say nothing."""
    assert read_proof(header_of(encode_v2(ProxyHeader(None, None, ((PROOF, bytes(56) + b"n"),))))) is None

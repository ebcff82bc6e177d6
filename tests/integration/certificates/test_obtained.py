"""A registry obtains certificates by itself and hands them to nodes: from pebble, strict, with its refused nonces."""

import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from portway_proto.v1.mesh_pb2 import ZoneCertificate
from portway_registry.acme.server_calls import on_thread
from portway_registry.config import Config
from portway_registry.errors import ConfigError
from portway_registry.state import keys
from portway_registry.store.open import open_store
from portway_runtime.endpoints import parse_endpoint
from portway_runtime.identities import dns_names
from portway_testkit.clusters.node_stream import NodeStream, stream
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.clusters.registry import Pki, node_info, running, tunnel_info
from portway_testkit.visitors.visiting import connect_tls

DOMAIN = "tunnels.example"
FRA, IAD = f"fra.{DOMAIN}", f"iad.{DOMAIN}"


def leaf(one: ZoneCertificate) -> x509.Certificate:
    return x509.load_pem_x509_certificates(one.chain)[0]


async def test_a_new_region_has_its_certificate_at_once(config: Config, pebble: Pebble, pki: Pki) -> None:
    """For its own name and every label, with a P-256 key; every node is handed those of all regions."""
    dns = pebble.publisher()
    async with running(config, dns) as registry, stream(registry, pki) as node:
        await node.until(lambda: FRA in node.zones)
        async with NodeStream(registry.mesh_address, pki, node_info("iad-2", "iad")) as second:
            await node.until(lambda: node.zones.keys() == {FRA, IAD})
            await second.until(lambda: second.zones.keys() == {FRA, IAD})
            assert second.zones == node.zones
        for zone, one in node.zones.items():
            certificate, key = leaf(one), load_pem_private_key(one.key, None)
            assert sorted(dns_names(certificate)) == [f"*.{zone}", zone]
            assert isinstance(key, ec.EllipticCurvePrivateKey)
            assert (key.curve.name, key.public_key()) == ("secp256r1", certificate.public_key())
            roots = x509.load_pem_x509_certificates(pebble.roots())
            assert len(x509.load_pem_x509_certificates(one.chain)) > len(roots), "with what leads to the root"
    assert {name for name, _ in dns.published} == {f"_acme-challenge.{FRA}", f"_acme-challenge.{IAD}"}


async def test_the_registrys_port_shows_its_own(config: Config, pebble: Pebble, pki: Pki, tmp_path: Path) -> None:
    """Once it is there; until then one of the cluster's CA, with which its first node can join."""
    own = replace(config, tls_cert=None, tls_key=None, cluster_ca_key=pki.folder / "ca.key")
    roots = tmp_path / "roots.pem"
    roots.write_bytes(pebble.roots())

    class Held:
        """Answers DNS when the test says so."""

        def __init__(self) -> None:
            self.dns = pebble.publisher()
            self.ready = False

        async def publish(self, name: str, value: str) -> None:
            while not self.ready:
                await on_thread(lambda: None)
            await self.dns.publish(name, value)

        async def withdraw(self, name: str, value: str) -> None:
            await self.dns.withdraw(name, value)

    async def shown(ca: Path, address: str, name: str) -> x509.Certificate | None:
        """What the port shows who trusts this CA; None when he refuses it."""
        context = ssl.create_default_context(cafile=ca)
        endpoint = parse_endpoint(address)

        def visit() -> x509.Certificate | None:
            try:
                with connect_tls(context, (endpoint.host, endpoint.port), name) as connection:
                    der = connection.getpeercert(binary_form=True)
            except ssl.SSLCertVerificationError:
                return None
            assert der is not None
            return x509.load_der_x509_certificate(der)

        return await on_thread(visit)

    dns = Held()
    async with running(own, dns) as registry:
        assert await shown(pki.ca, registry.address, DOMAIN) is not None
        assert await shown(pki.ca, registry.address, "localhost") is not None
        assert await shown(roots, registry.address, DOMAIN) is None
        dns.ready = True
        while (certificate := await shown(roots, registry.address, DOMAIN)) is None:
            pass
        assert dns_names(certificate) == [DOMAIN]
        async with stream(registry, pki) as node:
            await node.until(lambda: FRA in node.zones)
            assert DOMAIN not in node.zones, "nodes have no use for the registry's own"


async def test_no_label_is_ever_in_a_certificate(config: Config, pebble: Pebble, pki: Pki) -> None:
    """Whatever tunnels there are, and whatever a node says of its region: certificate transparency publishes names."""
    hostile = tunnel_info()
    dns = pebble.publisher()
    async with running(config, dns) as registry:
        async with stream(registry, pki) as node:
            await node.announce(hostile)
            await node.until(lambda: FRA in node.zones)
            held = node.zones
        assert {name for one in held.values() for name in dns_names(leaf(one))} == {FRA, f"*.{FRA}"}
        assert {name for name, _ in dns.published} == {f"_acme-challenge.{FRA}"}
    assert hostile.label not in pebble.log()


@pytest.mark.parametrize("kind", ["file", "etcd"])
async def test_whoever_has_the_store_has_no_private_key(
    config: Config, pebble: Pebble, pki: Pki, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Neither of a zone nor of the account, in whatever form; nor does a registry that runs on the store alone."""
    text = f"embedded:{tmp_path / 'registry.db'}"
    if kind == "etcd":
        text = f"etcd:{request.getfixturevalue('etcd').url}"
    stored = replace(config, store=text)
    async with running(stored, pebble.publisher()) as registry, stream(registry, pki) as node:
        await node.until(lambda: FRA in node.zones)
        key = load_pem_private_key(node.zones[FRA].key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    store = open_store(stored.store_spec(), on_failure=lambda error: None)
    try:
        entries = {entry.key: entry.value for entry in (await store.list(keys.ROOT)).entries}
    finally:
        await store.close()
    number = key.private_numbers().private_value.to_bytes(32, "big")
    assert all(number not in value and number.hex().encode() not in value for value in entries.values())
    of_acme = {key for key in entries if key.startswith((keys.CERTIFICATES, keys.ACME_ACCOUNTS))}
    assert len(of_acme) == 2
    for one in of_acme:
        assert b"PRIVATE KEY" not in entries[one]
        assert b"BEGIN" not in entries[one] or one.startswith(keys.CERTIFICATES)
    if kind == "file":
        assert b"EC PRIVATE KEY" not in (tmp_path / "registry.db").read_bytes()
    thief = replace(stored, acme_key_file=tmp_path / "thief.key")
    with pytest.raises(ConfigError, match="acme-key-file"):
        async with running(thief, pebble.publisher()):
            pass


async def test_a_restart_orders_nothing(config: Config, pebble: Pebble, pki: Pki, tmp_path: Path) -> None:
    """What is in the store is handed on; the ACME server need not be there."""
    stored = replace(config, store=f"embedded:{tmp_path / 'registry.db'}")
    async with running(stored, pebble.publisher()) as registry, stream(registry, pki) as node:
        await node.until(lambda: FRA in node.zones)
        before = node.zones
    nowhere = replace(stored, acme_ca=None)
    dns = pebble.publisher()
    async with running(nowhere, dns) as registry, stream(registry, pki) as node:
        await node.until(lambda: node.zones)
        assert node.zones == before
    assert dns.published == []


async def test_settings_that_cannot_work_are_named(config: Config, pebble: Pebble, tmp_path: Path) -> None:
    """Before anything is started."""
    (tmp_path / "empty").touch()
    for changes, complaint in (
        ({"domain": None}, "--domain is required"),
        ({"tls_key": None}, "go together"),
        ({"acme_ca": tmp_path / "none.pem"}, "--acme-ca"),
        ({"acme_ca": tmp_path / "empty"}, "--acme-ca"),
        ({"acme_key_file": None}, "--acme-key-file FILE is required"),
        ({"acme_eab_key_id": "kid-1"}, "--acme-eab-key-id and --acme-eab-key-file go together"),
        ({"registry_name": f"{'a' * 16}.{FRA}"}, "--registry-name"),
        ({"acme_directory": None}, "--acme-ca is for an ACME server, and none is named"),
        ({"acme_directory": None, "acme_ca": None, "tls_cert": None}, "--tls-cert FILE is required"),
        ({"tls_cert": None, "tls_key": None}, "--mesh-tls-cert"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            async with running(replace(config, **changes), pebble.publisher()):
                pass

"""Certificates are renewed in time, when the server says, and by command; revoked by command."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from portway_proto.v1.admin_pb2 import (
    REVOCATION_REASON_KEY_COMPROMISE,
    RenewZoneCertificateRequest,
    RevokeZoneCertificateRequest,
)
from portway_registry.acme import keeper, schedule
from portway_registry.acme.server_calls import Connection
from portway_registry.config import Config
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.certificate_operator import CertificateOperator, operating
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.clusters.registry import Pki, channel, running

FRA = "fra.tunnels.example"


def serial(operator: CertificateOperator) -> int:
    """Of the certificate that the node has."""
    return x509.load_pem_x509_certificates(operator.node.zones[FRA].chain)[0].serial_number


async def another(operator: CertificateOperator, before: int) -> int:
    """The serial number of the next one that the node is handed."""
    await operator.node.until(lambda: serial(operator) != before)
    return serial(operator)


@pytest.mark.timeout(120)
async def test_it_is_renewed_in_its_time(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, again and again, and before its end; nodes are handed each."""
    # Pebble's window for a renewal is two days: its end, which is chosen half of the time, leaves a sixth of the life.
    monkeypatch.setattr(keeper, "chosen_ms", lambda window, certificate: 0)
    with Pebble(tmp_path / "pebble", validity=18) as pebble:
        # A node that says nothing is known for as long as the test takes.
        config = pebble.config(pki, tmp_path, lease_seconds=60)
        async with operating(config, pebble, pki) as operator:
            await operator.node.until(lambda: FRA in operator.node.zones)
            found = await operator.certificate()
            first = serial(operator)
            assert found.renew_at_ms < found.until_ms
            second = await another(operator, first)
            assert datetime.now(UTC).timestamp() * 1000 < found.until_ms
            await another(operator, second)


async def test_the_server_says_when(pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for an early renewal, as after a fault of its own, and is told which certificate the order replaces."""
    monkeypatch.setattr(schedule, "_LEAST_APART", 0)
    monkeypatch.setattr(schedule, "_MINUTE", 200)  # between two questions
    monkeypatch.setattr(schedule, "_DAY", 200)
    replaced: list[bytes | None] = []
    order = Connection.order

    async def noted(self: Connection, names: tuple[str, ...], csr: bytes, replaces: bytes | None) -> object:
        replaced.append(replaces)
        return await order(self, names, csr, replaces)

    monkeypatch.setattr(Connection, "order", noted)
    with Pebble(tmp_path / "pebble") as pebble:
        async with operating(pebble.config(pki, tmp_path), pebble, pki) as operator:
            await operator.node.until(lambda: FRA in operator.node.zones)
            chain, first = operator.node.zones[FRA].chain, serial(operator)
            end = datetime.now(UTC) - timedelta(hours=1)
            start = end - timedelta(hours=1)
            pebble.suggest_renewal(chain, f"{start:%Y-%m-%dT%H:%M:%SZ}", f"{end:%Y-%m-%dT%H:%M:%SZ}")
            await another(operator, first)
            assert replaced == [None, chain]
            later = await operator.until(lambda now: now.renew_at_ms > now.obtained_at_ms + 1000)
            assert later.renew_at_ms < later.until_ms


async def test_it_is_renewed_by_command(config: Config, pebble: Pebble, pki: Pki) -> None:
    """At once; the key is another one."""
    async with operating(config, pebble, pki) as operator:
        await operator.node.until(lambda: FRA in operator.node.zones)
        before, key = serial(operator), operator.node.zones[FRA].key
        renewed = await operator.renew()
        assert renewed.wanted_at_ms == 0
        await another(operator, before)
        assert operator.node.zones[FRA].key != key
        assert not pebble.is_revoked(before)


@pytest.mark.parametrize("first", [False, True])
async def test_it_is_revoked_by_command(config: Config, pebble: Pebble, pki: Pki, first: bool) -> None:
    """Nodes have another one; an order that is repeated meanwhile is the same order."""
    async with operating(config, pebble, pki) as operator:
        await operator.node.until(lambda: FRA in operator.node.zones)
        before = serial(operator)
        request = RevokeZoneCertificateRequest(zone=FRA, reason=REVOCATION_REASON_KEY_COMPROMISE, first=first)
        answer = await operator.admin.stub.RevokeZoneCertificate(request, metadata=operator.admin.shown)
        assert answer.certificate.until_ms > 0
        after = await another(operator, before)
        await operator.until(lambda now: not now.revoking)
        assert pebble.is_revoked(before)
        assert not pebble.is_revoked(after)
        assert (await operator.certificate()).failures == 0


async def test_what_is_not_known_is_refused(config: Config, pebble: Pebble, pki: Pki) -> None:
    """Above all a name that is no zone: it would be published."""
    label = "a" * 16
    async with operating(config, pebble, pki) as operator:
        await operator.node.until(lambda: FRA in operator.node.zones)
        for zone in (f"{label}.{FRA}", f"*.{FRA}", "iad.tunnels.example", ""):
            stub: Any = operator.admin.stub
            for call, request in (
                (stub.RenewZoneCertificate, RenewZoneCertificateRequest(zone=zone)),
                (stub.RevokeZoneCertificate, RevokeZoneCertificateRequest(zone=zone)),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call(request, metadata=operator.admin.shown)
                assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        wrong = RevokeZoneCertificateRequest(zone=FRA, reason=9)  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await operator.admin.stub.RevokeZoneCertificate(wrong, metadata=operator.admin.shown)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_registry_without_a_server_says_so(pki: Pki, tmp_path: Path) -> None:
    """To who asks for its certificates."""
    config = pki.config(tmp_path)
    async with running(config) as registry, channel(registry.address, pki.ca) as public:
        assert config.admin_token_file is not None
        admin = AdminCaller(public, config.admin_token_file.read_text().strip(), registry, pki)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await admin.stub.RenewZoneCertificate(RenewZoneCertificateRequest(zone=FRA), metadata=admin.shown)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert "--acme-directory" in str(caught.value.details())

"""When no certificate can be had: operators are told, by the log, metrics and commands, and it is tried again."""

import logging
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from portway_proto.v1.admin_pb2 import ListNodesRequest, ListZoneCertificatesRequest, ZoneCertificateInfo
from portway_registry.acme.server_calls import on_thread
from portway_registry.config import Config
from portway_registry.server import Registry
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.admin_caller import AdminCaller
from portway_testkit.clusters.pebble import Pebble
from portway_testkit.clusters.registry import LOOPBACK, NodeStream, Pki, channel, running, stream

FRA = "fra.tunnels.example"
CHALLENGE = f"_acme-challenge.{FRA}"


@dataclass
class Operator:
    """A registry with a node of the region fra, and what its operator sees and says."""

    registry: Registry
    node: NodeStream
    admin: AdminCaller

    async def certificate(self) -> ZoneCertificateInfo:
        request = ListZoneCertificatesRequest()
        answer = await self.admin.stub.ListZoneCertificates(request, metadata=self.admin.shown)
        (found,) = answer.certificates
        return found

    async def until(self, found: Callable[[ZoneCertificateInfo], bool]) -> ZoneCertificateInfo:
        while not found(now := await self.certificate()):
            pass
        return now

    async def complaints(self) -> list[str]:
        answer = await self.admin.stub.ListNodes(ListNodesRequest(), metadata=self.admin.shown)
        return list(answer.certificate_failures)

    async def metrics(self) -> str:
        def read() -> str:
            url = f"http://{self.registry.metrics_address}/metrics"
            with urllib.request.urlopen(url, timeout=10) as answer:
                text: str = answer.read().decode()
            return text

        return await on_thread(read)


Operating = Callable[[Config, Pebble], "asynccontextmanager[Operator]"]


@asynccontextmanager
async def operating(config: Config, pebble: Pebble, pki: Pki) -> AsyncIterator[Operator]:
    dns = pebble.challenges()
    async with running(config, dns) as registry, channel(registry.address, pki.ca) as public:
        assert config.admin_token_file is not None
        admin = AdminCaller(public, config.admin_token_file.read_text().strip(), registry, pki)
        async with stream(registry, pki) as node:
            yield Operator(registry, node, admin)


async def renewed(operator: Operator) -> ZoneCertificateInfo:
    """Order a renewal, as an operator who has mended what was wrong."""
    from portway_proto.v1.admin_pb2 import RenewZoneCertificateRequest

    request = RenewZoneCertificateRequest(zone=FRA)
    before = (await operator.admin.stub.RenewZoneCertificate(request, metadata=operator.admin.shown)).certificate
    return await operator.until(lambda now: now.obtained_at_ms > before.obtained_at_ms)


async def test_operators_are_told_and_it_is_tried_again(
    pki: Pki, tmp_path: Path, pebble: Pebble, caplog: pytest.LogCaptureFixture
) -> None:
    """The next try has its time; an operator who has mended DNS need not wait for it."""
    config = pebble.config(pki, tmp_path, metrics_listen=Endpoint(LOOPBACK, 0))
    pebble.break_dns(CHALLENGE)
    try:
        async with operating(config, pebble, pki) as operator:
            with caplog.at_level(logging.ERROR):
                failed = await operator.until(lambda now: now.failures > 0)
            assert CHALLENGE in failed.failure
            assert not failed.until_ms
            assert list(failed.names) == [FRA, f"*.{FRA}"]
            assert 60_000 <= failed.retry_at_ms - failed.failed_at_ms <= 75_000
            assert await operator.complaints() == [f"the certificate of {FRA} is not renewed: {failed.failure}"]
            (record,) = [one for one in caplog.records if one.message == "certificate not obtained"]
            assert record.__dict__["zone"] == FRA
            assert CHALLENGE in record.__dict__["reason"]
            metrics = await operator.metrics()
            assert f'portway_registry_certificate_failures{{zone="{FRA}"}} 1.0' in metrics
            assert 'portway_registry_certificate_orders_total{outcome="failed"} 1.0' in metrics
            pebble.mend_dns(CHALLENGE)
            mended = await renewed(operator)
            assert (mended.failures, mended.failure, mended.retry_at_ms) == (0, "", 0)
            assert await operator.complaints() == []
            assert f'portway_registry_certificate_failures{{zone="{FRA}"}} 0.0' in await operator.metrics()
            await operator.node.until(lambda: FRA in operator.node.zones)
    finally:
        pebble.mend_dns(CHALLENGE)


async def test_a_server_that_is_away_is_tried_again(pki: Pki, tmp_path: Path) -> None:
    """And one that has forgotten all accounts gets another one."""
    with Pebble(tmp_path / "pebble") as pebble:
        async with operating(pebble.config(pki, tmp_path), pebble, pki) as operator:
            first = await operator.until(lambda now: now.until_ms > 0)
            pebble.stop()
            await order(operator)
            failed = await operator.until(lambda now: now.failures == 1)
            assert "cannot be reached" in failed.failure
            assert failed.until_ms == first.until_ms, "the one that it has stays"
            pebble.start()
            await order(operator)
            failed = await operator.until(lambda now: now.failures == 2 or now.obtained_at_ms > first.obtained_at_ms)
            assert "account" in failed.failure.lower()
            await renewed(operator)


async def order(operator: Operator) -> None:
    from portway_proto.v1.admin_pb2 import RenewZoneCertificateRequest

    request = RenewZoneCertificateRequest(zone=FRA)
    await operator.admin.stub.RenewZoneCertificate(request, metadata=operator.admin.shown)


async def test_a_server_may_demand_an_external_account(pki: Pki, tmp_path: Path) -> None:
    """Without a binding its operator is told which settings there are; with one it issues."""
    key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
    with Pebble(tmp_path / "pebble", bindings={"kid-1": key}) as pebble:
        async with operating(pebble.config(pki, tmp_path), pebble, pki) as operator:
            failed = await operator.until(lambda now: now.failures > 0)
            assert "--acme-eab-key-id" in failed.failure
        file = tmp_path / "eab"
        file.write_text(key + "\n")
        bound = pebble.config(pki, tmp_path, acme_eab_key_id="kid-1", acme_eab_key_file=file)
        async with operating(bound, pebble, pki) as operator:
            await operator.until(lambda now: now.until_ms > 0)


async def test_a_server_that_is_none_is_named(pki: Pki, tmp_path: Path, pebble: Pebble) -> None:
    """A wrong path, or a certificate that is not trusted."""
    for changes in (
        {"acme_directory": pebble.directory.removesuffix("dir") + "nothing"},
        {"acme_ca": pki.ca},
    ):
        (tmp_path / "acme.key").unlink(missing_ok=True)
        async with operating(pebble.config(pki, tmp_path, **changes), pebble, pki) as operator:
            assert (await operator.until(lambda now: now.failures > 0)).failure

"""When no certificate can be had: operators are told, by the log, metrics and commands, and it is tried again."""

import logging
from pathlib import Path

import grpc
import pytest
from portway_proto.v1.admin_pb2 import RevokeZoneCertificateRequest
from portway_runtime.endpoints import Endpoint
from portway_testkit.clusters.certificate_operator import operating
from portway_testkit.clusters.pebble import Pebble, TxtRecords
from portway_testkit.clusters.registry import LOOPBACK, Pki

FRA = "fra.tunnels.example"
CHALLENGE = f"_acme-challenge.{FRA}"


def not_obtained(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the log says of failures, which it does once they are shown."""
    return [one for one in caplog.records if one.message == "certificate not obtained"]


async def test_operators_are_told_and_it_is_tried_again(
    pki: Pki, tmp_path: Path, pebble: Pebble, caplog: pytest.LogCaptureFixture
) -> None:
    """The next try has its time; an operator who has mended DNS need not wait for it."""
    config = pebble.config(pki, tmp_path, metrics_listen=Endpoint(LOOPBACK, 0))
    pebble.break_dns(CHALLENGE)
    try:
        async with operating(config, pebble, pki) as operator:
            with caplog.at_level(logging.ERROR):
                failed = await operator.until(lambda now: now.failures > 0 and bool(not_obtained(caplog)))
            assert CHALLENGE in failed.failure
            assert not failed.until_ms
            assert list(failed.names) == [FRA, f"*.{FRA}"]
            assert 60_000 <= failed.retry_at_ms - failed.failed_at_ms <= 75_000
            assert await operator.complaints() == [f"the certificate of {FRA} is not obtained: {failed.failure}"]
            (record,) = not_obtained(caplog)
            assert record.__dict__["zone"] == FRA
            assert CHALLENGE in record.__dict__["reason"]
            metrics = await operator.metrics()
            assert f'portway_registry_certificate_failures{{zone="{FRA}"}} 1.0' in metrics
            assert 'portway_registry_certificate_orders_total{outcome="failed"} 1.0' in metrics
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await operator.admin.stub.RevokeZoneCertificate(
                    RevokeZoneCertificateRequest(zone=FRA), metadata=operator.admin.shown
                )
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND, "there is none to revoke"
            pebble.mend_dns(CHALLENGE)
            mended = await operator.renew()
            assert (mended.failures, mended.failure, mended.retry_at_ms) == (0, "", 0)
            assert await operator.complaints() == []
            assert f'portway_registry_certificate_failures{{zone="{FRA}"}} 0.0' in await operator.metrics()
            await operator.node.until(lambda: FRA in operator.node.zones)
    finally:
        pebble.mend_dns(CHALLENGE)


async def test_a_fault_of_the_registry_itself_is_told_where_failures_are(
    pki: Pki, tmp_path: Path, pebble: Pebble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a process that may have no further thread: in the log alone it would be overlooked."""

    async def fail(self: TxtRecords, name: str, value: str) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as faulty:
        faulty.setattr(TxtRecords, "publish", fail)
        async with operating(pebble.config(pki, tmp_path), pebble, pki) as operator:
            failed = await operator.until(lambda now: now.failures > 0)
            assert failed.failure == "the registry itself failed: RuntimeError: can't start new thread"
            assert failed.retry_at_ms > failed.failed_at_ms
            assert await operator.complaints() == [f"the certificate of {FRA} is not obtained: {failed.failure}"]
            faulty.undo()
            assert (await operator.renew()).failures == 0


async def test_a_server_that_is_away_is_tried_again(pki: Pki, tmp_path: Path) -> None:
    """And one that has forgotten all accounts gets another one."""
    with Pebble(tmp_path / "pebble") as pebble:
        async with operating(pebble.config(pki, tmp_path), pebble, pki) as operator:
            first = await operator.until(lambda now: now.until_ms > 0)
            pebble.stop()
            await operator.order()
            failed = await operator.until(lambda now: now.failures == 1)
            assert "cannot be reached" in failed.failure
            assert failed.until_ms == first.until_ms, "the one that it has stays"
            pebble.start()
            await operator.order()
            failed = await operator.until(lambda now: now.failures == 2 or now.obtained_at_ms > first.obtained_at_ms)
            assert "account" in failed.failure.lower()
            await operator.renew()


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
    """A wrong path, or a certificate that is not trusted: with what to look at."""
    for changes, says in (
        ({"acme_directory": pebble.directory.removesuffix("dir") + "nothing"}, "HTTP status 404; is --acme-directory"),
        ({"acme_ca": pki.ca}, "cannot be reached"),
    ):
        (tmp_path / "acme.key").unlink(missing_ok=True)
        async with operating(pebble.config(pki, tmp_path, **changes), pebble, pki) as operator:
            assert says in (await operator.until(lambda now: now.failures > 0)).failure

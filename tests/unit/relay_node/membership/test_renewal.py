"""When a certificate is renewed, and what is said when it is not."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from portway_proto.v1.types_pb2 import NodeCertificate
from portway_registry.pki.signing import Signer, requested_key
from portway_relay.errors import RenewalFailed
from portway_relay.membership import renewal as renewal_module
from portway_relay.membership.renewal import Renewal, renewal_time
from portway_relay.membership.state_folder import StateFolder
from portway_runtime.certificates import authority_id
from portway_runtime.expiry import lifetime
from portway_testkit.links.carrier_link import until

LIFE = timedelta(seconds=20)


class Registry:
    """Signs, or says why not."""

    def __init__(self) -> None:
        self.signer = Signer.create()
        self.trouble = ""
        self.asked = 0

    def certify(self, request: bytes, issued: datetime | None = None) -> NodeCertificate:
        made = self.signer.node(requested_key(request), "fra-1", "fra", LIFE, issued=issued)
        return NodeCertificate(certificate=made.public_bytes(serialization.Encoding.PEM), cluster_ca=self.signer.pem)

    async def ask(self, request: bytes) -> NodeCertificate:
        self.asked += 1
        if self.trouble:
            raise RenewalFailed(self.trouble)
        return self.certify(request)


class Stage:
    """A node's folder, a registry, and a renewal at a time of the test's choice."""

    def __init__(self, folder: Path) -> None:
        self.registry = Registry()
        self.folder = StateFolder(folder)
        self.renewed = 0
        self.now = datetime.now(UTC)
        self.failures: list[BaseException] = []
        self.renewal: Renewal | None = None

    def start(self, *, old: timedelta) -> None:
        """With a certificate that was issued so long ago."""
        request = self.folder.joining_request("abc", "fra-1")
        self.folder.store_joined("abc", self.registry.certify(request, self.now - old))
        self.renewal = Renewal(
            self.folder, "fra-1", self.registry.ask, self._was_renewed, on_failure=self.failures.append, now=self._now
        )
        self.renewal.start()

    def _now(self) -> datetime:
        return self.now

    def _was_renewed(self) -> None:
        self.renewed += 1


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path / "state")
    yield stage
    if stage.renewal is not None:
        await stage.renewal.close()
    assert not stage.failures


async def test_it_is_due_at_half_its_life(stage: Stage) -> None:
    """The hour that it was dated back is no part of its life."""
    stage.start(old=timedelta(0))
    certificate = stage.folder.certificate()
    assert abs(lifetime(certificate) - LIFE) <= timedelta(seconds=1)
    assert abs(renewal_time(certificate) - (stage.now + LIFE / 2)) <= timedelta(seconds=1)
    await asyncio.sleep(0)
    assert stage.registry.asked == 0


async def test_an_old_one_is_renewed_at_once(stage: Stage) -> None:
    """A node that was off for a while does not wait; whoever uses the files is told once they are new."""
    stage.start(old=LIFE * 0.6)
    before = stage.folder.certificate()
    await until(lambda: stage.renewed == 1)
    assert stage.folder.certificate().serial_number != before.serial_number
    assert stage.registry.asked == 1


async def test_trouble_is_told_once_and_tried_again(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The certificate there is stays in use, until it is over: that is said anew, with what to do."""
    stage.registry.trouble = "no registry can be reached"
    with caplog.at_level(logging.WARNING):
        stage.start(old=LIFE * 0.6)
        await until(lambda: stage.registry.asked >= 3)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        stage.now += LIFE
        await until(lambda: len(caplog.records) == 2)
        assert caplog.records[1].levelname == "ERROR"
        assert "portway-admin node invite" in caplog.text
    assert stage.renewed == 0
    stage.registry.trouble = ""
    await until(lambda: stage.renewed == 1)


async def test_a_folder_that_is_gone_ends_no_node(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It is trouble like any other: the certificate is in memory, too."""
    stage.start(old=LIFE * 0.6)
    (stage.folder.path / "abc" / "node.key").unlink()
    with caplog.at_level(logging.WARNING):
        await until(lambda: "certificate not renewed" in caplog.text)
    assert stage.renewed == 0


def both(first: Signer, second: Signer) -> bytes:
    return first.pem + second.pem


async def test_another_ca_is_trusted_first_and_renewed_from_then(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told of a second CA the node trusts it at once; told that it issues, the certificate is renewed long before its
    time; told of the new one alone, it trusts no other."""
    monkeypatch.setattr(renewal_module, "_SPREAD", 0.01)
    stage.start(old=timedelta())
    assert stage.renewal is not None
    old, new = stage.registry.signer, Signer.create()
    old_id, new_id = authority_id(old.certificate), authority_id(new.certificate)
    stage.renewal.learn_authorities(old.pem, old_id)
    assert stage.renewed == 0
    stage.renewal.learn_authorities(both(old, new), old_id)
    assert (stage.renewed, stage.folder.authorities()) == (1, both(old, new))
    stage.registry.signer = new
    stage.renewal.learn_authorities(both(new, old), new_id)
    await until(lambda: stage.registry.asked == 1 and stage.folder.certificate().issuer == new.certificate.subject)
    stage.renewal.learn_authorities(new.pem, new_id)
    assert stage.folder.authorities() == new.pem
    assert stage.registry.asked == 1


async def test_a_registry_that_cannot_renew_is_asked_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the certificate is from the CA that issues."""
    monkeypatch.setattr(renewal_module, "_SPREAD", 0.01)
    monkeypatch.setattr(renewal_module, "_LONGEST_SLEEP", 0.01)
    stage.start(old=timedelta())
    assert stage.renewal is not None
    old, new = stage.registry.signer, Signer.create()
    stage.registry.trouble = "no registry can be reached"
    stage.renewal.learn_authorities(both(old, new), authority_id(new.certificate))
    await until(lambda: stage.registry.asked >= 3)
    stage.registry.trouble, stage.registry.signer = "", new
    await until(lambda: stage.folder.certificate().issuer == new.certificate.subject)


async def test_cas_without_the_node_s_own_are_not_taken_over(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Nor noise: nobody would trust this node, and it would not start any more."""
    stage.start(old=timedelta())
    assert stage.renewal is not None
    before = stage.folder.authorities()
    for cluster_ca in (Signer.create().pem, b"noise"):
        caplog.clear()
        stage.renewal.learn_authorities(cluster_ca, "")
        assert len(caplog.records) == 1
    assert stage.folder.authorities() == before
    assert stage.renewed == 0

"""Registries that are lost, replaced, silent or of another cluster, and how a node leaves."""

import asyncio
import io
import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from portway_proto.v1.mesh_pb2 import (
    Registered,
)
from portway_proto.v1.types_pb2 import NODE_STATE_DRAINING
from portway_registry.pki.signing import LEAF_LIFE, Signer, new_key, private_pem
from portway_runtime.logs import BoundedHandler
from portway_testkit.fakes.fake_mesh import LEASE, Certified, MakeNode, Serve, Served
from portway_testkit.links.carrier_link import until


async def test_a_lost_registry_is_found_again_and_its_lease_resumed(serve: Serve, node: MakeNode) -> None:
    """What hangs on the lease has not gone; everything is told again nevertheless, for it may be another's memory."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.batches) == 1)
    registry.mesh.hang_up()
    await until(lambda: len(registry.mesh.batches) == 2)
    assert [register.lease_id for register in registry.mesh.registers] == [0, LEASE]
    assert [batch.full for batch in registry.mesh.batches] == [True, True]
    assert end.events.away == [False, True, False]


async def test_while_no_registry_is_there_the_node_waits(serve: Serve, node: MakeNode) -> None:
    """It knows that none is, and is back with one that comes up on the same address."""
    registry = await serve()
    end = node(registry)
    await until(lambda: end.calls.connected)
    await registry.stop()
    await until(lambda: end.events.away == [False, True])
    assert not end.calls.connected
    end.outbox.withdrawn("a" * 16, 1)
    assert end.outbox.take() is None
    await registry.start()
    await until(lambda: end.calls.connected)
    assert registry.mesh.registers[-1].lease_id == LEASE


class Earlier(Certified):
    """A registry's certificate with the names of its hosts alone."""

    def __init__(self, certified: Certified, folder: Path, host: str) -> None:
        self.pki = folder
        for name in ("ca.crt", "node-relay-1.crt", "node-relay-1.key"):
            (folder / name).write_bytes(certified.read(name))
        signer = Signer.load(certified.read("ca.crt"), certified.read("ca.key"), names=("", ""))
        key = new_key()
        made = signer._issue(key.public_key(), "registry", [host], (ExtendedKeyUsageOID.SERVER_AUTH,), LEAF_LIFE)
        (folder / "registry.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / "registry.key").write_bytes(private_pem(key))


async def test_a_registry_of_before_is_known_by_its_host(
    serve: Serve, node: MakeNode, certified: Certified, tmp_path: Path
) -> None:
    """Its certificate was made before registries had a name of their own."""
    served = await serve(Earlier(certified, tmp_path, "127.0.0.1"))
    end = node(served)
    await until(lambda: end.calls.connected)


async def test_a_registry_with_another_s_certificate_is_none(
    serve: Serve, node: MakeNode, certified: Certified, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither by the name of all registries nor by its host."""
    end = node(await serve(Earlier(certified, tmp_path, "other.example")))
    with caplog.at_level(logging.WARNING):
        await until(lambda: bool(caplog.records))
    assert "registry.portway.internal" in caplog.records[0].reason  # type: ignore[attr-defined]
    assert not end.calls.connected


async def test_the_next_registry_takes_over(serve: Serve, node: MakeNode) -> None:
    """When the one in use goes, with the lease that it had given; and the first one may be away at the start."""
    first, second = await serve(), await serve()
    end = node(first, second)
    await until(lambda: end.calls.connected)
    assert not second.mesh.streams
    await first.stop()
    await until(lambda: len(second.mesh.batches) == 1)
    assert second.mesh.registers[0].lease_id == LEASE
    assert second.mesh.batches[0].full
    other = node(first, second)
    await until(lambda: other.calls.connected)
    assert second.mesh.registers[1].lease_id == 0


async def test_a_second_registered_makes_the_node_tell_everything_again(serve: Serve, node: MakeNode) -> None:
    """The lease was lost and replaced: what hung on it is gone. The new one is the one to resume."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.batches) == 1)
    registry.mesh.say(registered=Registered(lease_id=78, lease_seconds=30))
    await until(lambda: len(registry.mesh.batches) == 2)
    assert registry.mesh.batches[1].full
    assert end.events.away == [False]
    registry.mesh.hang_up()
    await until(lambda: len(registry.mesh.batches) == 3)
    assert registry.mesh.registers[1].lease_id == 78


async def test_a_registry_that_answers_nothing_is_left(
    serve: Serve, node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a time limit the next one is tried."""
    monkeypatch.setattr("portway_relay.registry_link.stream._REGISTER_TIME", 0.3)
    mute, other = await serve(), await serve()
    mute.mesh.silent = True
    end = node(mute, other)
    await until(lambda: end.calls.connected)
    assert mute.mesh.streams == 1
    assert other.mesh.streams == 1


async def test_a_registry_that_hangs_up_at_once_is_not_hammered(serve: Serve, node: MakeNode) -> None:
    """Being registered for a moment is no success: the pauses grow."""
    registry = await serve()
    registry.mesh.hang_ups = 4
    end = node(registry)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: registry.mesh.streams == 5 and end.calls.connected)
    # 0.1, 0.2, 0.4 and 0.8 s, each at least half of it.
    assert loop.time() - began >= 0.75


async def test_a_node_that_leaves_says_so_and_ends_the_stream(serve: Serve, node: MakeNode) -> None:
    """What was not told yet, then its state, then the end: the registry forgets it at once."""
    registry = await serve()
    end = node(registry)
    await until(lambda: len(registry.mesh.keep_alives) == 1)
    end.info.state = NODE_STATE_DRAINING
    end.outbox.withdrawn("a" * 16, 1)
    await end.close()
    assert registry.mesh.ended.is_set()
    assert [message.WhichOneof("message") for message in registry.mesh.heard[-2:]] == ["announce", "keep_alive"]
    assert registry.mesh.keep_alives[-1].state == NODE_STATE_DRAINING
    await end.close()


async def test_leaving_takes_no_longer_than_it_may(serve: Serve, node: MakeNode) -> None:
    """A registry that does not end its side, or is not there, keeps no node from stopping."""
    registry = await serve()
    end = node(registry)
    await until(lambda: end.calls.connected)
    registry.mesh.ended.set()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await registry.stop()
    await end.stream.close(within=0.2)
    assert loop.time() - began < 5


async def test_trouble_is_one_line_for_each_registry(
    serve: Serve, node: MakeNode, strangers: Certified, caplog: pytest.LogCaptureFixture
) -> None:
    """However often each is tried: an outage of hours must not fill the log, which counts what repeats exactly."""
    wrong = await serve(strangers)
    gone = await serve()
    await gone.stop()
    written = io.StringIO()
    handler = BoundedHandler(written)
    logger = logging.getLogger("portway_relay.registry_link.stream")
    logger.addHandler(handler)
    try:
        end = node(wrong, gone)
        await until(lambda: len(_told(caplog, wrong)) >= 3 and len(_told(caplog, gone)) >= 3)
        lines = written.getvalue().splitlines()
    finally:
        logger.removeHandler(handler)
    assert lines == ["no registry"] * 2
    assert "--cluster-ca" in _told(caplog, wrong)[0].__dict__["reason"]
    assert "refused" in _told(caplog, gone)[0].__dict__["reason"].lower()
    assert not end.events.away, "it was away from the start: there is no change to tell"


async def test_a_registry_of_another_cluster_is_no_registry(serve: Serve, node: MakeNode, strangers: Certified) -> None:
    """Its certificate is refused before anything is said; the next one is tried."""
    wrong, right = await serve(strangers), await serve()
    end = node(wrong, right)
    await until(lambda: end.calls.connected)
    assert not wrong.mesh.heard
    assert right.mesh.streams == 1


def _told(caplog: pytest.LogCaptureFixture, served: Served) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.__dict__.get("registry") == str(served.endpoint)]

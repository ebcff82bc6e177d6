"""A new node joins with an invitation's token: once, as whom it is for, and goes on with what it got."""

import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import portway
import pytest
from portway_proto.v1.admin_pb2 import NODE_ORDER_REMOVE
from portway_relay.config import NodeConfig
from portway_relay.errors import ConfigError, JoinError
from portway_runtime import names
from portway_testkit.clusters.cluster import DOMAIN, Cluster
from portway_testkit.clusters.joining import Joiner
from portway_testkit.fixtures import AsClient
from portway_testkit.links.connect_proxy import ConnectProxy
from portway_testkit.visitors.mesh_visitors import get
from portway_testkit.visitors.origins import HttpOrigin
from portway_testkit.waiting import eventually


def refusal(joiner: Joiner, config: NodeConfig) -> str:
    with pytest.raises(JoinError) as raised:
        joiner.enter(config)
    return str(raised.value)


def test_two_nodes_join_and_are_a_mesh(joiner: Joiner, as_client: AsClient, origin: HttpOrigin) -> None:
    """Nothing but a token each: clients come, and a visitor may enter at either."""
    one, two = joiner.join("fra-1"), joiner.join("fra-2")
    as_client(joiner.cluster.environment())
    with portway.forward(origin.port) as tunnel:
        for node in (one, two):
            eventually(lambda: answers(node, tunnel, joiner.cluster, origin))
    assert ("node.join", "fra-2") in joiner.cluster.admin.audited()
    assert [found.used_by for found in joiner.cluster.admin.invitations(over=True)] == ["fra-1", "fra-2"]
    assert joiner.cluster.admin.invitations() == []


def answers(node: object, tunnel: portway.Tunnel, cluster: Cluster, origin: HttpOrigin) -> bool:
    try:
        return get(node, tunnel, cluster.ca) == f"{origin.name}\n".encode()  # type: ignore[arg-type]
    except OSError:  # it has not heard of the tunnel yet
        return False


def test_a_node_asks_no_proxy(start: Callable[..., Joiner], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment names for other programs: neither to join nor to register, nor for its peers."""
    joiner = start()
    configs = [joiner.config(name, token=joiner.invite()) for name in ("fra-1", "fra-2")]
    with ConnectProxy() as proxy:
        for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "grpc_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for config in configs:
            joiner.enter(config)
            joiner.run(config)
        assert proxy.asked == []


def test_a_node_joins_through_another_one(start: Callable[..., Joiner]) -> None:
    """At the registry's name and the public port of nodes; afterwards it passes such connections on itself."""
    joiner = start(registry_name=DOMAIN)
    first = joiner.join("fra-1")
    eventually(lambda: first.node._serving.passages.name == DOMAIN)
    for name, ingress in (("fra-2", first.port), ("fra-3", None)):
        port = ingress or joiner.cluster.nodes["fra-2"].port
        token = joiner.invite().partition("@")[0]
        config = joiner.config(name, token=f"{token}@{DOMAIN}:{port}")
        joiner.enter(config)
        joined = joiner.run(config)
        eventually(lambda: joined.node._serving.passages.name == DOMAIN)
    eventually(lambda: {node.name for node in joiner.cluster.admin.nodes()} == {"fra-1", "fra-2", "fra-3"})
    # Counted when the connection has ended at both sides, and the new node goes on before.
    eventually(lambda: first.metrics().get('passages_ended_total{outcome="done"}') == 1)


def test_what_a_node_keeps_is_its_own(joiner: Joiner) -> None:
    """Key and certificate can be read by nobody else."""
    config = joiner.config("fra-1", token=joiner.invite())
    joiner.enter(config)
    assert config.state_dir is not None
    assert stat.S_IMODE(config.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.key.parent.resolve().stat().st_mode) == 0o700


def test_a_node_that_is_started_again_needs_no_token(joiner: Joiner) -> None:
    """It goes on with its certificate, whether its command line still has the token or not."""
    config = joiner.config("fra-1", token=joiner.invite())
    joiner.enter(config)
    kept = config.cert.read_bytes()
    joiner.enter(config)
    joiner.enter(joiner.config("fra-1"))
    assert config.cert.read_bytes() == kept
    joiner.run(config).restart()


def test_a_token_may_come_from_a_file(joiner: Joiner) -> None:
    """Which nobody else can read, unlike a command line, and which may be deleted once the node has joined."""
    file = joiner.folder / "invitation"
    config = joiner.config("fra-1", join_file=file)
    assert f"cannot read --join-file {file}: No such file" in refusal(joiner, config)
    file.write_text("pw_something_else\n")
    with pytest.raises(ConfigError, match=r"--join-file .* is not an invitation"):
        joiner.enter(config)
    file.write_text(joiner.invite() + "\n")
    joiner.enter(config)
    file.unlink()
    joiner.enter(config)
    file.touch()
    joiner.enter(config)  # as systemd passes on one that was deleted
    joiner.run(config)


def test_a_token_is_good_for_one_node(joiner: Joiner) -> None:
    """The second is told who has used it; the first may ask again with its key, as when the answer was lost."""
    token = joiner.invite()
    first = joiner.config("fra-1", token=token)
    joiner.enter(first)
    assert "was used by node fra-1" in refusal(joiner, joiner.config("fra-2", token=token))
    other_key = joiner.config("fra-1", token=token, state="elsewhere")
    assert "was used by node fra-1" in refusal(joiner, other_key)
    assert first.state_dir is not None
    (first.state_dir / "current").unlink()
    joiner.enter(first)


def test_of_many_that_come_at_once_one_joins(joiner: Joiner) -> None:
    """However close together they are."""
    token = joiner.invite()
    outcomes: list[str] = []

    def attempt(name: str) -> None:
        try:
            joiner.enter(joiner.config(name, token=token))
        except JoinError as error:
            outcomes.append(str(error))
        else:
            outcomes.append("joined")

    joiner.config("fra-0")  # makes the region's certificate, which all share
    threads = [threading.Thread(target=attempt, args=(f"fra-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert outcomes.count("joined") == 1
    assert sum("was used by node" in one for one in outcomes) == 7


def test_an_invitation_is_for_whom_it_names(joiner: Joiner) -> None:
    """Another region, or another name, is refused, and the token stays good for the right one."""
    token = joiner.invite("fra", node="fra-1")
    assert "region 'fra'" in refusal(joiner, joiner.config("fra-1", "iad", token=token))
    assert "node 'fra-1'" in refusal(joiner, joiner.config("fra-2", token=token))
    joiner.enter(joiner.config("fra-1", token=token))


def test_a_name_that_is_another_s_is_not_given(joiner: Joiner) -> None:
    """A token without a name makes no second node of a name; one with it replaces the first."""
    joiner.enter(joiner.config("fra-1", token=joiner.invite()))
    assert "is another node's" in refusal(joiner, joiner.config("fra-1", token=joiner.invite(), state="second"))
    joiner.enter(joiner.config("fra-1", token=joiner.invite(node="fra-1"), state="second"))


def test_tokens_that_are_over_say_why(joiner: Joiner) -> None:
    """Revoked, unknown, and not a token at all."""
    token = joiner.invite()
    joiner.cluster.admin.revoke_invitation(token.split("_")[1])
    assert "is revoked" in refusal(joiner, joiner.config("fra-1", token=token))
    unknown = f"pwj_aaaaaaaa_{'a' * 32}@{joiner.cluster.registry_address}"
    assert "does not know the invitation" in refusal(joiner, joiner.config("fra-1", token=unknown))
    used = joiner.invite()
    joiner.enter(joiner.config("fra-1", token=used))
    with pytest.raises(Exception, match="has joined with it already"):
        joiner.cluster.admin.revoke_invitation(used.split("_")[1])


def test_a_token_expires(joiner: Joiner) -> None:
    """After its time it lets nobody in."""
    token = joiner.invite(ttl=1)
    eventually(lambda: joiner.cluster.admin.invitations() == [])
    assert "has expired" in refusal(joiner, joiner.config("fra-1", token=token))


def test_without_trust_in_the_registry_no_token_is_shown(joiner: Joiner) -> None:
    """By the system's CAs a registry with a certificate of one's own is not one, and the flag is named."""
    token = joiner.invite()
    assert "--registry-ca" in refusal(joiner, joiner.config("fra-1", token=token, registry_ca=None))
    assert [found.used_at_ms for found in joiner.cluster.admin.invitations()] == [0]


def test_a_registry_whose_ca_the_system_has_is_trusted(joiner: Joiner, monkeypatch: pytest.MonkeyPatch) -> None:
    """No flag names it then."""
    monkeypatch.delenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", raising=False)  # it would come first
    monkeypatch.setenv("SSL_CERT_FILE", "/none")
    token = joiner.invite()
    assert "SSL_CERT_FILE" in refusal(joiner, joiner.config("fra-1", token=token, registry_ca=None))
    monkeypatch.setenv("SSL_CERT_FILE", str(joiner.cluster.ca))
    joiner.enter(joiner.config("fra-1", token=token, registry_ca=None))


def test_the_registry_s_ca_may_have_a_byte_order_mark(joiner: Joiner, tmp_path: Path) -> None:
    """As editors write it."""
    path = tmp_path / "bom.crt"
    path.write_text(joiner.cluster.ca.read_text(), encoding="utf-8-sig")
    joiner.enter(joiner.config("fra-1", token=joiner.invite(), registry_ca=path))


def test_a_registry_that_is_late_is_waited_for(joiner: Joiner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that starts: first its name cannot be resolved, then nobody listens at its address."""
    token, _, address = joiner.invite().partition("@")
    answers: list[str | None] = [None, "127.0.0.99", "127.0.0.1"]
    registry = "registry.late.test"  # in no certificate: where it leads is what is asked
    asked: list[str | None] = []
    known = names._addresses

    def resolve(host: str, flags: int = 0) -> list[names.Address]:
        if host != registry or flags:
            return known(host, flags)
        asked.append(answers[min(len(asked), 2)])
        if asked[-1] is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [names.Address(socket.AF_INET, asked[-1])]

    monkeypatch.setattr(names, "_addresses", resolve)
    said = refusal(joiner, joiner.config("fra-1", token=f"{token}@{registry}:{address.rpartition(':')[2]}"))
    assert "is not trusted" in said
    assert asked == answers


def test_a_node_that_never_joined_is_told_how(joiner: Joiner) -> None:
    """Neither token nor certificate."""
    said = refusal(joiner, joiner.config("fra-1"))
    assert "portway-admin node invite --region fra" in said
    assert "--join-file FILE" in said


def test_a_node_that_has_joined_and_is_away_is_named(joiner: Joiner) -> None:
    """With its region and the end of its certificate, for the doctor; not while it runs, nor once it was removed."""

    def absent() -> list[tuple[str, str]]:
        return [(one.name, one.region) for one in joiner.cluster.admin.health().absent_nodes]

    config = joiner.config("fra-1", token=joiner.invite())
    joiner.enter(config)
    eventually(lambda: absent() == [("fra-1", "fra")], shown=absent)
    (told,) = joiner.cluster.admin.health().absent_nodes
    assert told.certificate_end_s - time.time() == pytest.approx(48 * 3_600, abs=60)
    running = joiner.run(config)
    eventually(lambda: absent() == [], shown=absent)
    running.stop()
    eventually(lambda: absent() == [("fra-1", "fra")], shown=absent)
    joiner.cluster.admin.order("fra-1", NODE_ORDER_REMOVE)
    eventually(lambda: absent() == [], shown=absent)


def test_a_new_token_is_a_new_identity(joiner: Joiner) -> None:
    """A node that is invited anew joins anew, with another key, whatever it had before."""
    first = joiner.config("fra-1", token=joiner.invite())
    joiner.enter(first)
    key = first.key.read_bytes()
    joiner.cluster.admin.order("fra-1", NODE_ORDER_REMOVE)
    joiner.enter(joiner.config("fra-1", token=joiner.invite()))
    assert first.key.read_bytes() != key
    joiner.run(joiner.config("fra-1"))

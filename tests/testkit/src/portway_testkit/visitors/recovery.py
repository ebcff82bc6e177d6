"""What must be true of a cluster after a fault: the URL works, tables and counters agree, each tunnel is listed once.

Here: conditions, to be checked until they are true. Not here: faults.
"""

import ssl
import threading
from pathlib import Path
from typing import Self

import grpc
from portway import Tunnel
from portway_proto.v1 import admin_pb2
from portway_proto.v1.admin_pb2_grpc import AdminStub
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS

from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.clusters.cluster import Cluster
from portway_testkit.visitors.visiting import LOOPBACK, ask, connect_tls, tls_context
from portway_testkit.waiting import PATIENCE, eventually


def label_of(tunnel: Tunnel) -> str:
    return tunnel.host.partition(".")[0]


def epoch_of(admin: AdminCalls, tunnel: Tunnel) -> int:
    """The epoch with which the registry lists it, once it does; a program's first one is the time."""
    listed: list[int] = []

    def is_listed() -> bool:
        listed[:] = [one.epoch for one in admin.tunnels() if one.label == label_of(tunnel)]
        return len(listed) == 1

    eventually(is_listed)
    return listed[0]


def serves(tunnel: Tunnel, ca: Path) -> bool:
    """Whether a visitor of the tunnel gets an answer now; its local server is an HttpOrigin."""
    try:
        return ask(tunnel, ca).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def visit_attentively(tunnel: Tunnel, ca: Path) -> ssl.SSLSocket:
    """A visitor for whom the end of TCP without TLS's close_notify is an error."""
    context = tls_context(ca, "http/1.1")
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return connect_tls(context, (LOOPBACK, tunnel.port), tunnel.host, suppress_ragged_eofs=False)


def breaks_off(visitor: ssl.SSLSocket) -> bool:
    """Read to the end. Returns whether the connection broke off instead of ending in order."""
    try:
        while visitor.recv(65_536):
            pass
    except (ConnectionResetError, ssl.SSLError):
        return True
    return False


def is_consistent(cluster: Cluster, *tunnels: Tunnel) -> bool:
    """Whether exactly these tunnels are open, at nodes and in the registry, and no visit or detached session exists."""
    labels = sorted(map(label_of, tunnels))
    if sorted(tunnel.label for tunnel in cluster.admin.tunnels()) != labels:
        return False
    metrics = [node.metrics() for node in cluster.nodes.values()]
    if sum(each["tunnels"] for each in metrics) != len(labels):
        return False
    busy = ("visits", "sessions_away", "half_open_connections", "greeting_lanes")
    return not any(each[name] for each in metrics for name in busy)


class TunnelWatch:
    """`with TunnelWatch(admin) as watch:` follows the registry's tunnels, as `portway-admin tunnel watch` does.

    `shown` is every change in order, as kind and label; the stream's end is in `ended`.
    """

    def __init__(self, admin: AdminCalls) -> None:
        self.shown: list[tuple[str, str]] = []
        self.ended: grpc.RpcError | None = None
        self._admin = admin
        self._synced = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tunnel watch")

    def __enter__(self) -> Self:
        credentials = grpc.ssl_channel_credentials(self._admin.ca.read_bytes())
        options = (*OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN)
        self._channel = grpc.secure_channel(self._admin.address, credentials, options=options)
        metadata = (("authorization", f"Bearer {self._admin.token}"),)
        self._stream = AdminStub(self._channel).WatchTunnels(admin_pb2.WatchTunnelsRequest(), metadata=metadata)
        self._thread.start()
        assert self._synced.wait(PATIENCE), "the watch did not begin"
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.cancel()
        self._thread.join(PATIENCE)
        self._channel.close()

    def shows(self, *tunnels: Tunnel) -> bool:
        """Whether exactly these tunnels are listed now.

        Raises AssertionError when a change does not follow from those before: a tunnel shown twice, or removed
        without having been there.
        """
        there: set[str] = set()
        for kind, label in tuple(self.shown):
            if kind in ("known", "added"):
                assert label not in there, f"shown twice: {self.shown}"
                there.add(label)
            else:
                assert label in there, f"{kind} without having been there: {self.shown}"
                if kind == "removed":
                    there.remove(label)
        return there == set(map(label_of, tunnels))

    def _follow(self) -> None:
        try:
            for change in self._stream:
                kind = admin_pb2.ChangeKind.Name(change.kind).removeprefix("CHANGE_KIND_").lower()
                if kind == "synced":
                    self._synced.set()
                else:
                    self.shown.append((kind, change.tunnel.label))
        except grpc.RpcError as error:
            self.ended = error

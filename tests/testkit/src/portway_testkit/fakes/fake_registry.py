"""A fake of the registry's Discovery service over real gRPC and TLS, whose answers a test decides."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import grpc
import trustme
from portway_proto.v1 import discovery_pb2, discovery_pb2_grpc, types_pb2
from portway_proto.wire.limits import KEY_SIZE

from portway_testkit.authority import tls_of
from portway_testkit.fakes.fake_node import FakeNode
from portway_testkit.fakes.node_answers import grant_text
from portway_testkit.processes.ports import free_port
from portway_testkit.signers import CLUSTER_ID
from portway_testkit.waiting import PATIENCE

GRANT_LIFE = 3600.0


class FakeRegistry(discovery_pb2_grpc.DiscoveryServicer):
    """`with FakeRegistry(authority, [node]) as registry:` listens on `registry.address`.

    `clock_offset` is how many seconds its clock is ahead of everybody else's.
    """

    def __init__(self, authority: trustme.CA, nodes: list[FakeNode]) -> None:
        self.nodes = nodes
        self.node_host = "127.0.0.1"  # where clients are told that all of them are
        self.cluster_ca = authority.cert_pem.bytes()
        self.cluster_id = CLUSTER_ID  # empty: a registry from before clients signed
        self.refuse: tuple[grpc.StatusCode, str] | None = None
        self.clock_offset = 0.0
        self.grant_life = GRANT_LIFE
        self.locates = 0
        self.renews = 0
        self.tokens: list[str] = []
        self.reports: list[discovery_pb2.ReportRequest] = []
        self.answers_reports = threading.Event()
        self.answers_reports.set()
        self.strategies: list[int] = []
        self.expected: dict[str, float] = {}  # the round trip in milliseconds that it expects, by node
        tls = tls_of(authority, "127.0.0.1", "localhost", "registry.test")
        self._credentials = grpc.ssl_server_credentials([(tls.key, tls.certificate)])
        self._server: grpc.Server | None = None
        self._changed = threading.Condition()
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        discovery_pb2_grpc.add_DiscoveryServicer_to_server(self, self._server)
        self._server.add_secure_port(self.address, self._credentials)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def Locate(
        self, request: discovery_pb2.LocateRequest, context: grpc.ServicerContext
    ) -> discovery_pb2.LocateResponse:
        self._admit(context)
        self.locates += 1
        self.strategies.append(request.strategy)
        return discovery_pb2.LocateResponse(
            candidates=[one for one in self._candidates() if request.region in ("", one.node.region)],
            cluster_ca=self.cluster_ca,
            grant=self._grant(f"grant-{self.locates}", request.session_key),
            cluster_id=self.cluster_id,
            registry_time_ms=self._time_ms(),
        )

    def Renew(self, request: discovery_pb2.RenewRequest, context: grpc.ServicerContext) -> discovery_pb2.RenewResponse:
        self._admit(context)
        with self._changed:
            self.renews += 1
            self._changed.notify_all()
        grant = self._grant(f"renewed-{self.renews}", request.session_key)
        return discovery_pb2.RenewResponse(grant=grant, registry_time_ms=self._time_ms())

    def Report(
        self, request: discovery_pb2.ReportRequest, context: grpc.ServicerContext
    ) -> discovery_pb2.ReportResponse:
        with self._changed:
            self.reports.append(request)
            self._changed.notify_all()
        self.answers_reports.wait(PATIENCE)
        self._admit(context)
        return discovery_pb2.ReportResponse()

    def Survey(
        self, request: discovery_pb2.SurveyRequest, context: grpc.ServicerContext
    ) -> discovery_pb2.SurveyResponse:
        self._admit(context)
        candidates = self._candidates()
        return discovery_pb2.SurveyResponse(
            candidates=candidates, nodes=len(candidates), cluster_ca=self.cluster_ca, client_address="127.0.0.1"
        )

    def wait(self, condition: Callable[[], bool]) -> None:
        """Return once `condition()` is true; it is checked after each Renew and Report. Raises AssertionError."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), "it never came to be"

    def _candidates(self) -> list[discovery_pb2.Candidate]:
        infos = (
            types_pb2.NodeInfo(
                name=node.name,
                region=node.region,
                domain=node.domain,
                host=self.node_host,
                port=node.via or node.port,
                server_name=node.server_name,
                state=types_pb2.NODE_STATE_READY,
            )
            for node in self.nodes
        )
        return [discovery_pb2.Candidate(node=info, expected_rtt_ms=self.expected.get(info.name, 0.0)) for info in infos]

    def _admit(self, context: grpc.ServicerContext) -> None:
        self.tokens.extend(str(value) for key, value in context.invocation_metadata() if key == "authorization")
        if self.refuse is not None:
            context.abort(*self.refuse)

    def _time_ms(self) -> int:
        return int((time.time() + self.clock_offset) * 1000)

    def _grant(self, name: str, session_key: bytes) -> discovery_pb2.Grant:
        assert len(session_key) == KEY_SIZE
        now = time.time() + self.clock_offset
        return discovery_pb2.Grant(
            token=grant_text(name, session_key),
            expires_at_ms=int((now + self.grant_life) * 1000),
            renew_at_ms=int((now + self.grant_life / 2) * 1000),
        )

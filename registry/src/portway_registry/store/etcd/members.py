"""The members of an etcd cluster, of which one is in use at a time.

Here: channels and their options, credentials, which member is next, the user's token. Not here: retries.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from portway_runtime.grpc_channels import NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS
from portway_runtime.pem_files import read_pem

from portway_registry.errors import ConfigError
from portway_registry.store.etcd_api import rpc_pb2, rpc_pb2_grpc
from portway_registry.store.spec import EtcdSpec

logger = logging.getLogger(__name__)

TRY_SECONDS = 1.5  # a member that runs answers within milliseconds; a leader is elected within 1 s

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 5_500),  # etcd answers pings more frequent than 5 s with GOAWAY
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),  # without it a frozen member goes unnoticed for 40 s
    ("grpc.keepalive_permit_without_calls", 0),  # etcd forbids it
    ("grpc.initial_reconnect_backoff_ms", 100),  # the caller backs off by itself
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),  # a watch that catches up may get many events at once
    *OWN_CONNECTIONS,  # closing a channel closes its connection
    *NO_PROXY_OF_ITS_OWN,
    ("grpc.enable_retries", 0),  # the caller retries, at another member
)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One endpoint, with a stub for each service that the registry uses."""

    endpoint: str
    channel: grpc.aio.Channel
    kv: "rpc_pb2_grpc.KVAsyncStub"
    lease: "rpc_pb2_grpc.LeaseAsyncStub"
    watch: "rpc_pb2_grpc.WatchAsyncStub"
    auth: "rpc_pb2_grpc.AuthAsyncStub"
    cluster: "rpc_pb2_grpc.ClusterAsyncStub"
    maintenance: "rpc_pb2_grpc.MaintenanceAsyncStub"


class Members:
    """All members; one is in use until a call to it fails, then the next."""

    def __init__(self, spec: EtcdSpec) -> None:
        """Read the files that `spec` names; nothing is sent yet. Raises ConfigError."""
        self._endpoints = spec.endpoints
        self._credentials = _credentials(spec) if spec.secure else None
        self._user = spec.user
        self._password = (
            _read(spec.password_file, Path.read_bytes).decode().rstrip("\r\n") if spec.password_file else ""
        )
        self._members: dict[str, Member] = {}
        self._used = 0
        self._lost = False  # a call failed, and no watch runs again since
        self._token: str | None = None
        self._authenticating = asyncio.Lock()
        self.closing = asyncio.Event()

    def current(self) -> Member:
        """The member to use now."""
        return self._member(self._endpoints[self._used])

    def all(self) -> tuple[Member, ...]:
        """Each member, in the order of the settings."""
        return tuple(map(self._member, self._endpoints))

    def failed(self, member: Member) -> None:
        """A call to `member` failed: use the next one, unless another is in use already."""
        self._lost = True
        if member.endpoint == self._endpoints[self._used] and len(self._endpoints) > 1:
            self._used = (self._used + 1) % len(self._endpoints)
            logger.warning("etcd endpoint changed", extra={"from": member.endpoint, "to": self._endpoints[self._used]})

    def answered(self, member: Member) -> None:
        """A watch runs at `member`: what had failed works again."""
        if self._lost:
            self._lost = False
            logger.info("etcd answers again", extra={"endpoint": member.endpoint})

    async def metadata(self, member: Member) -> tuple[tuple[str, str], ...]:
        """The metadata that authenticates a call; gets a token from `member` when there is none. Raises AioRpcError."""
        if self._user is None:
            return ()
        async with self._authenticating:
            if self._token is None:
                request = rpc_pb2.AuthenticateRequest(name=self._user, password=self._password)
                self._token = (await member.auth.Authenticate(request, timeout=TRY_SECONDS)).token
            return (("token", self._token),)

    def refused(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """etcd refused the token in `metadata`: get another next time, unless it was replaced meanwhile."""
        if metadata == (("token", self._token),):
            self._token = None

    def cut_short(self) -> bool:
        """Whether a CancelledError is that of grpc.aio after `close`, and not of a cancelled task."""
        task = asyncio.current_task()
        return self.closing.is_set() and not (task and task.cancelling())

    async def closed_within(self, seconds: float) -> bool:
        """Wait `seconds`, or until closed; returns whether it was closed."""
        try:
            async with asyncio.timeout(seconds):
                return await self.closing.wait()
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Close every channel; calls in progress end."""
        self.closing.set()
        members, self._members = list(self._members.values()), {}
        for member in members:
            await member.channel.close()

    def _member(self, endpoint: str) -> Member:
        member = self._members.get(endpoint)
        if member is None:
            member = self._members[endpoint] = self._connect(endpoint)
        return member

    def _connect(self, endpoint: str) -> Member:
        if self._credentials is None:
            channel = grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
        else:
            channel = grpc.aio.secure_channel(endpoint, self._credentials, options=_OPTIONS)
        return Member(
            endpoint,
            channel,
            rpc_pb2_grpc.KVStub(channel),
            rpc_pb2_grpc.LeaseStub(channel),
            rpc_pb2_grpc.WatchStub(channel),
            rpc_pb2_grpc.AuthStub(channel),
            rpc_pb2_grpc.ClusterStub(channel),
            rpc_pb2_grpc.MaintenanceStub(channel),
        )


def _credentials(spec: EtcdSpec) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        root_certificates=_read(spec.ca, read_pem) if spec.ca else None,
        private_key=_read(spec.key, read_pem) if spec.key else None,
        certificate_chain=_read(spec.certificate, read_pem) if spec.certificate else None,
    )


def _read(path: Path, read: Callable[[Path], bytes]) -> bytes:
    try:
        return read(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the --etcd-... settings") from error

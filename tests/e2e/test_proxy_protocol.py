"""PROXY headers with the programs that people use: what docs/balancers.md shows, run as it stands there."""

import json
import ssl
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import portway
import pytest
from portway_lab.cluster.portway import Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes
from portway_testkit.links.balancer import BALANCER
from portway_testkit.page_blocks import haproxy_file, runnable
from portway_testkit.processes.ports import LOOPBACK, free_port, wait_listening
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.visitors.siege import metrics_at
from portway_testkit.visitors.visiting import connect_tls, receive, tls_context

PAGE = "balancers.md"
# Where the visitor of these tests comes from: nobody else does.
VISITOR = "127.0.0.77"
NODE = NodePlan("fra-1", "fra", 50.1, 8.7, flags=("--proxy-protocol-from", BALANCER))

pytestmark = [pytest.mark.usefixtures("client_environment"), pytest.mark.timeout(180)]

# Answers with what it knows of its client.
_APP = """
import json

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    told = {"client": scope["client"][0], "scheme": scope["scheme"], "headers": headers}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})
"""
_NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{block}
}}
"""


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
        yield processes


@pytest.fixture(scope="module")
def cluster(processes: Processes) -> Cluster:
    """In place of the other tests' clusters: its node believes a balancer."""
    return start_cluster(processes, (NODE,))


@dataclass(frozen=True, slots=True)
class Started:
    """Starts programs, each at a port of its own."""

    processes: Processes

    def uvicorn(self) -> int:
        port = free_port()
        (self.processes.folder / "told.py").write_text(_APP)
        command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--log-level", "warning", "told:app"]
        return self._listening("uvicorn", [*command, "--app-dir", str(self.processes.folder)], port)

    def nginx(self, block: str, port: int) -> int:
        folder = self.processes.folder / f"nginx-{port}"
        folder.mkdir()
        (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, block=block))
        return self._listening("nginx", [needed("nginx"), "-c", str(folder / "nginx.conf"), "-p", str(folder)], port)

    def haproxy(self, block: str, port: int) -> int:
        file = self.processes.folder / f"haproxy-{port}.cfg"
        file.write_text(haproxy_file(block))
        return self._listening("haproxy", [needed("haproxy"), "-db", "-f", str(file)], port)

    def _listening(self, name: str, command: list[str], port: int) -> int:
        self.processes.start(f"{name}-{port}", command)
        wait_listening(port, self.processes.check_alive)
        return port


@pytest.fixture(scope="module")
def started(processes: Processes) -> Started:
    return Started(processes)


@pytest.fixture(scope="module")
def behind_nginx(started: Started) -> int:
    """uvicorn behind nginx, as the page has it; the port for Portway."""
    uvicorn, port = started.uvicorn(), free_port()
    ours = {"127.0.0.1:8000": f"{LOOPBACK}:{port}", "127.0.0.1:9000": f"{LOOPBACK}:{uvicorn}"}
    return started.nginx(runnable(PAGE, "nginx", ours), port)


def ask(context: ssl.SSLContext, tunnel: portway.Tunnel, port: int) -> dict[str, Any]:
    """What the program says of this visitor, who comes to the tunnel by this port of loopback."""
    with connect_tls(context, (LOOPBACK, port), tunnel.host, source=VISITOR) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {tunnel.host}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = receive(connection).partition(b"\r\n\r\n")
    assert b" 200 " in head, head
    told: dict[str, Any] = json.loads(body[body.index(b"{") : body.rindex(b"}") + 1])
    return told


def test_uvicorn_behind_nginx(cluster: Cluster, behind_nginx: int) -> None:
    """nginx reads the header, and uvicorn believes nginx: the visitor's address, and https."""
    context = tls_context(cluster.ca, "http/1.1")
    with portway.forward(behind_nginx, proxy_protocol=True) as tunnel:
        told = ask(context, tunnel, tunnel.port)
    assert (told["client"], told["scheme"]) == (VISITOR, "https")
    assert told["headers"]["host"] == tunnel.host
    with portway.forward(behind_nginx, proxy_protocol="v1") as tunnel:
        assert ask(context, tunnel, tunnel.port)["client"] == VISITOR


def test_nginx_refuses_visitors_without_a_header(cluster: Cluster, behind_nginx: int) -> None:
    """The option of forward() and that of the server belong together."""
    context = tls_context(cluster.ca, "http/1.1")
    with (
        portway.forward(behind_nginx) as tunnel,
        connect_tls(context, (LOOPBACK, tunnel.port), tunnel.host) as connection,
    ):
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {tunnel.host}\r\n\r\n".encode())
        assert receive(connection) == b""


def test_haproxy_reads_what_is_told_of_tls(
    cluster: Cluster, started: Started, client_environment: dict[str, str]
) -> None:
    """Address and host name; from the command as well."""
    uvicorn, port = started.uvicorn(), free_port()
    ours = {"127.0.0.1:8000": f"{LOOPBACK}:{port}", "127.0.0.1:9000": f"{LOOPBACK}:{uvicorn}"}
    started.haproxy(runnable(PAGE, "haproxy", ours), port)
    context = tls_context(cluster.ca, "http/1.1")
    with portway.forward(port, proxy_protocol=True) as tunnel:
        told = ask(context, tunnel, tunnel.port)
    assert told["client"] == VISITOR
    assert told["headers"]["x-visitor-name"] == tunnel.host
    command = [str(Path(sys.executable).parent / "portway"), "forward", "--proxy-protocol", str(port), "--json"]
    with RunningProgram(command, client_environment, started.processes.folder / "portway.log") as program:
        shown = json.loads(program.line())
        tunnel = portway.Tunnel(shown["host"], shown["port"])
        assert ask(context, tunnel, tunnel.port)["headers"]["x-visitor-name"] == tunnel.host
        assert program.stop() == 0


def test_haproxy_in_front_of_a_node(cluster: Cluster, started: Started, behind_nginx: int) -> None:
    """From end to end: the balancer tells the node, the node the client, the client nginx, nginx uvicorn. Its health
    checks are no faults."""
    node, port = cluster.nodes[0], free_port()
    ours = {"bind :443": f"bind {LOOPBACK}:{port}", "10.0.3.11:8443": node.listen}
    block = runnable(PAGE, "front", ours).replace("send-proxy-v2", f"send-proxy-v2 source {BALANCER} inter 100ms")
    started.haproxy(block, port)
    with portway.forward(behind_nginx, proxy_protocol=True) as tunnel:
        for _ in range(3):
            assert ask(tls_context(cluster.ca, "http/1.1"), tunnel, port)["client"] == VISITOR
    admin = started.processes.wait_ready(node.process)["admin_listen"]
    turned_away = {name: count for name, count in metrics_at(admin).items() if "proxy_header" in name and count}
    assert turned_away == {}

"""One of the programs of docs/frameworks.md, behind a tunnel: with its setting and without. All of them, in a browser:
scripts/framework_test."""

import socket
import sys
from http.client import HTTPConnection
from pathlib import Path

import portway
import pytest
from portway_lab.cluster.portway import Cluster
from portway_lab.cluster.visits import visitor_context
from portway_lab.frameworks.programs import FOLDER, JUPYTER_TOKEN, own_variables, without_settings
from portway_testkit.processes.ports import free_port, wait_listening
from portway_testkit.processes.running_program import RunningProgram

pytestmark = [pytest.mark.shares_sockets, pytest.mark.timeout(180)]


@pytest.mark.parametrize(("setting", "status"), [(True, 200), (False, 403)], ids=["with its setting", "without"])
def test_a_server_that_is_told_is_there_for_visitors(
    cluster: Cluster, client_environment: dict[str, str], tmp_path: Path, setting: bool, status: int
) -> None:
    """JupyterLab, whose page is in the answer to whoever has the token; it refuses a host name that it was not told
    of."""
    program = tmp_path / "program.py"
    text = (FOLDER / "jupyter_lab.py").read_text() if setting else without_settings(FOLDER / "jupyter_lab.py")
    assert text is not None
    program.write_text(text)
    port = free_port()
    with (
        RunningProgram(
            [sys.executable, program, str(port)], client_environment | own_variables(tmp_path), tmp_path / "log"
        ) as running,
        portway.forward(port) as tunnel,
    ):
        wait_listening(port, running.check_alive)
        visit = HTTPConnection(tunnel.host, tunnel.port)
        plain = socket.create_connection(("127.0.0.1", tunnel.port), 60)
        visit.sock = visitor_context(cluster.ca).wrap_socket(plain, server_hostname=tunnel.host)
        visit.request("GET", f"/lab?token={JUPYTER_TOKEN}")
        answer = visit.getresponse()
        page = answer.read()
        visit.close()
        assert (answer.status, b"JupyterLab" in page) == (status, setting), running.errors()

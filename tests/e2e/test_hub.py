"""The hub example: a notebook for each POST, each a process of its own behind a tunnel of its own."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from portway_lab.cluster.portway import Cluster
from portway_testkit.clusters.admin_calls import AdminCalls
from portway_testkit.processes.running_program import RunningProgram, needed
from portway_testkit.waiting import eventually

EXAMPLE = Path(__file__).resolve().parents[2] / "client/examples/hub.py"
TOKEN = "only the test knows"
PATIENCE = 90.0  # for a JupyterLab that starts beside another one
NOTEBOOKS = 2

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def hub(client_environment: dict[str, str], tmp_path: Path) -> Iterator[RunningProgram]:
    """The example as its user starts it, with nothing of the user's own settings."""
    directory = tmp_path / "notebooks"
    directory.mkdir()
    own = {name: str(tmp_path / name) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    command = [sys.executable, str(EXAMPLE), "--port", "0", "--limit", str(NOTEBOOKS), "--directory", str(directory)]
    with RunningProgram(command, client_environment | own | {"HUB_TOKEN": TOKEN}, tmp_path / "hub.log") as program:
        yield program


def curl(url: str, *options: str) -> tuple[int, str]:
    """The status of the answer, and where it leads to when that is elsewhere."""
    command = [needed("curl"), "--silent", "--show-error", "--output", "/dev/null", *options]
    written = ("--write-out", "%{http_code} %{redirect_url}")
    done = subprocess.run([*command, *written, url], capture_output=True, text=True, timeout=PATIENCE, check=True)
    status, _, location = done.stdout.partition(" ")
    return int(status), location


def post(url: str, token: str) -> tuple[int, str]:
    return curl(url, "--request", "POST", "--header", f"Authorization: Bearer {token}")


def test_each_post_starts_a_notebook(cluster: Cluster, hub: RunningProgram) -> None:
    """A POST with the right token is answered 303 with the address of a new JupyterLab, 401 without, and 503 when there
    are as many as there may be; SIGTERM ends the hub, every notebook and every tunnel."""
    url = hub.line()
    admin = AdminCalls(cluster.registry, cluster.ca, cluster.admin_token_file.read_text().strip())
    assert curl(url, "--request", "POST") == (401, "")
    assert post(url, "another token") == (401, "")
    assert admin.tunnels() == []

    with ThreadPoolExecutor(NOTEBOOKS) as pool:
        answers = list(pool.map(post, [url] * NOTEBOOKS, [TOKEN] * NOTEBOOKS))
    assert [status for status, _ in answers] == [303] * NOTEBOOKS
    notebooks = [location for _, location in answers]
    hosts = {urlsplit(notebook).hostname for notebook in notebooks}
    assert len(hosts) == NOTEBOOKS
    eventually(lambda: {tunnel.host for tunnel in admin.tunnels()} == hosts)  # nodes announce in batches
    for notebook in notebooks:
        assert curl(notebook, "--cacert", str(cluster.ca)) == (200, "")
        without_token = curl(notebook.partition("?")[0], "--cacert", str(cluster.ca))
        assert without_token[0] == 302
        assert urlsplit(without_token[1]).path == "/login"
    assert post(url, TOKEN) == (503, "")

    assert hub.stop() == 0
    eventually(lambda: not admin.tunnels())

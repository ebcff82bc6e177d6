"""The Jupyter example: JupyterLab behind a tunnel, used in a real browser through its public URL."""

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import BrowserContext, WebSocket, expect
from portway_testkit.processes.running_program import RunningProgram

EXAMPLE = Path(__file__).resolve().parents[2] / "client/examples/jupyter.py"
SHOWN_WITHIN = 45_000.0  # milliseconds: a browser and a kernel that start, on two cores
LAUNCHER = ".jp-LauncherCard[data-category='Notebook']"
CELL = ".jp-Notebook .jp-Cell .cm-content"
KERNEL_IDLE = "Python 3 (ipykernel) | Idle"  # in the status bar; what is run before a kernel is there is dropped
CODE = "import sys; print('the answer is', 6 * 7); print(sys.argv[0])"
OUTPUT = ".jp-Notebook .jp-OutputArea-output"

pytestmark = [pytest.mark.browser, pytest.mark.shares_sockets, pytest.mark.timeout(180)]


@pytest.fixture
def jupyter(client_environment: dict[str, str], tmp_path: Path) -> Iterator[RunningProgram]:
    """The example as its user starts it, with nothing of the user's own settings."""
    directory = tmp_path / "notebooks"
    directory.mkdir()
    own = {name: str(tmp_path / name) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    command = [sys.executable, str(EXAMPLE), "--port", "0", "--directory", str(directory)]
    with RunningProgram(command, client_environment | own, tmp_path / "jupyter.log") as program:
        yield program


def test_a_cell_runs_over_the_public_url(jupyter: RunningProgram, browser: BrowserContext) -> None:
    """A notebook is opened at the printed URL, its cell runs over a WebSocket of the same host and shows its output.
    Without the URL's token nobody gets in. SIGTERM ends the example, its server and its kernel."""
    url = jupyter.line()
    address = urlsplit(url)
    assert (address.scheme, address.path) == ("https", "/lab")
    assert list(parse_qs(address.query)) == ["token"]

    page = browser.new_page()
    page.set_default_timeout(SHOWN_WITHIN)
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))  # Playwright cannot keep a built-in method
    page.goto(url.partition("?")[0])
    assert urlsplit(page.url).path == "/login"
    assert page.evaluate("async () => (await fetch('/api/kernels')).status") == 403
    page.goto(url)
    page.locator(LAUNCHER).first.click()
    page.get_by_text(KERNEL_IDLE).wait_for()
    cell = page.locator(CELL).first  # running it adds another one
    cell.fill(CODE)
    expect(cell).to_have_text(CODE, timeout=SHOWN_WITHIN)
    cell.press("Shift+Enter")
    expect(page.locator(OUTPUT).first).to_contain_text("the answer is 42", timeout=SHOWN_WITHIN)
    expect(page.locator(OUTPUT).first).to_contain_text("ipykernel_launcher.py", timeout=SHOWN_WITHIN)

    kernels = [urlsplit(socket.url) for socket in sockets if "/api/kernels/" in socket.url]
    assert kernels
    assert {(kernel.scheme, kernel.netloc) for kernel in kernels} == {("wss", address.netloc)}
    assert jupyter.stop() == 0

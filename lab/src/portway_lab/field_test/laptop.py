"""What a user runs on the laptop: a program with forward(), or a notebook; and visits to it.

Here: these programs. Not here: the browser (browser.py), the load (load.py).
"""

import re
import sysconfig
from pathlib import Path
from typing import Final

from portway_lab.checkout import ROOT
from portway_lab.cluster.processes import Process, Processes, end_process
from portway_lab.field_test.cluster import FieldCluster
from portway_lab.field_test.visitors import Visit, VisitFailed

TEXT: Final = "a page of the laptop"
# The server is any, and the two variables are all that it is told of Portway.
_PROGRAM: Final = f"""
import http.server, threading, portway

class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "{len(TEXT)}")
        self.end_headers()
        self.wfile.write(b"{TEXT}")

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
with portway.forward(8000) as tunnel:
    print(tunnel.url, flush=True)
    threading.Event().wait()
"""
_NOTEBOOK: Final = ROOT / "client/examples/jupyter.py"
_PACKAGES: Final = "/opt/jupyter"
_SHARED: Final = "/opt/jupyter-share"
# Where this machine has JupyterLab, which the laptop can read: its user has installed it there.
SHOWN: Final = {
    Path(sysconfig.get_path("purelib")): _PACKAGES,
    Path(sysconfig.get_path("data")) / "share/jupyter": _SHARED,
}
_JUPYTER: Final = {"PYTHONPATH": _PACKAGES, "JUPYTERLAB_DIR": f"{_SHARED}/lab", "JUPYTER_PATH": _SHARED}
_URL: Final = re.compile(r"https://\S+")
_OPENS_WITHIN: Final = 60.0


class Laptop:
    """Its programs."""

    def __init__(self, processes: Processes, cluster: FieldCluster, variables: dict[str, str]) -> None:
        """`variables`: what the first client was given."""
        self._processes = processes
        self._cluster = cluster
        self._variables = variables
        self._running: dict[str, Process] = {}

    def open_tunnel(self) -> str:
        """Run a program with forward(), in place of the one before; the tunnel's URL."""
        return self._run("program", _PROGRAM, {})

    def open_notebook(self) -> str:
        """Run JupyterLab behind a tunnel, as the examples do; the URL, with its token."""
        return self._run("notebook", _NOTEBOOK.read_text(), _JUPYTER)

    def close(self, name: str) -> None:
        """End a program."""
        process = self._running.pop(name)
        end_process(process.popen, process.name)
        self._processes.forget_ended()
        process.log.unlink()

    def _run(self, name: str, text: str, more: dict[str, str]) -> str:
        if name in self._running:
            self.close(name)
        laptop = self._cluster.laptop
        laptop.run("sh", "-c", f"cat >/root/{name}.py", given=text)
        words = [*laptop.words({**self._variables, **more}), "/opt/portway/bin/python3", "-u", f"/root/{name}.py"]
        with self._cluster.transcript.step(
            f"laptop$ PORTWAY_REGISTRY=… PORTWAY_TOKEN=… python {name}.py: the URL is there"
        ):
            process = self._running[name] = self._processes.start(name, words)

            def shown() -> str:
                match = _URL.search(process.log.read_text())
                return match[0] if match else ""

            self._processes.wait_until(shown, process, f"had no URL within {_OPENS_WITHIN:.0f} s", _OPENS_WITHIN)
        return shown()

    def visit(self, region: str, url: str, *addresses: str) -> Visit:
        """Open the program's page from a region, as Visitor.visit. Raises VisitFailed for any other page too."""
        visit = self._cluster.visitors[region].visit(url, *addresses)
        if (visit.code, visit.page) != (200, TEXT):
            raise VisitFailed(f"{region}: {visit.code} {visit.page!r}")
        self._cluster.transcript.say(
            f"visitor in {region}: the page of {url} through {self._cluster.map.at(visit.address)}: name "
            f"{visit.resolved:.2f} s, TLS {visit.trusted:.2f} s, page {visit.done:.2f} s"
        )
        return visit

"""A small hub: each POST starts a notebook, in a process of its own behind a tunnel of its own.

    HUB_TOKEN=secret python hub.py --port 8000
    curl -i -X POST -H "Authorization: Bearer secret" http://127.0.0.1:8000/

The answer is 303 with the notebook's address, or 401 without the right token. The first line of standard output is the
hub's own address; without HUB_TOKEN the second line is the token that the hub generated. Its notebooks end with it.
"""

import argparse
import hmac
import os
import secrets
import signal
import subprocess
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_NOTEBOOK = [sys.executable, str(Path(__file__).with_name("jupyter.py")), "--port", "0"]
_END_TIMEOUT = 20.0  # seconds; a notebook has up to 12 for JupyterLab and its kernels
_LARGEST_BODY = 65_536  # bytes


class Hub(ThreadingHTTPServer):
    """The HTTP server, and the notebooks that it has started."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], token: str, limit: int, directory: str) -> None:
        super().__init__(address, Request)
        self.token = token
        self._limit = limit
        self._directory = directory
        self._notebooks: list[subprocess.Popen[str]] = []
        self._starting = threading.Lock()
        self._ending = False

    def start_notebook(self) -> tuple[HTTPStatus, str]:
        """The status and text to answer: SEE_OTHER and the address of a new notebook, or an error."""
        with self._starting:
            self._notebooks = [notebook for notebook in self._notebooks if notebook.poll() is None]
            if self._ending or len(self._notebooks) >= self._limit:
                return HTTPStatus.SERVICE_UNAVAILABLE, f"{len(self._notebooks)} notebooks run already\n"
            notebook = subprocess.Popen(
                [*_NOTEBOOK, "--directory", self._directory],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | {"PORTWAY_KEY": ""},  # each has a URL of its own
                start_new_session=True,  # Ctrl-C reaches this program only, which ends them in order
            )
            self._notebooks.append(notebook)
        assert notebook.stdout is not None
        address = notebook.stdout.readline().strip()  # printed when it answers; empty if it failed
        if not address:
            return HTTPStatus.BAD_GATEWAY, "the notebook did not start: the hub's standard error says why\n"
        return HTTPStatus.SEE_OTHER, address

    def end(self) -> None:
        """End every notebook, and wait until all have ended."""
        with self._starting:
            self._ending = True
        for notebook in self._notebooks:
            notebook.terminate()
        for notebook in self._notebooks:
            try:
                notebook.wait(_END_TIMEOUT)
            except subprocess.TimeoutExpired:
                notebook.kill()
                notebook.wait()
            if notebook.stdout is not None:
                notebook.stdout.close()
        self.server_close()


class Request(BaseHTTPRequestHandler):
    """Answers POST."""

    server: Hub

    def do_POST(self) -> None:
        # The body is not used, but closing with unread bytes would cut the answer off.
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), _LARGEST_BODY))
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            self._answer(HTTPStatus.UNAUTHORIZED, "the right bearer token is needed\n", "WWW-Authenticate", "Bearer")
            return
        status, text = self.server.start_notebook()
        if status == HTTPStatus.SEE_OTHER:
            self._answer(status, f"{text}\n", "Location", text)
        else:
            self._answer(status, text)

    def _answer(self, status: HTTPStatus, text: str, header: str = "", value: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if header:
            self.send_header(header, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Start notebooks, each behind a tunnel of its own.")
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0: any free one; default: 8000")
    parser.add_argument("--limit", type=int, default=10, help="notebooks that may run at the same time; default: 10")
    parser.add_argument("--directory", default=".", help="what the notebooks serve; default: the current folder")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())  # ends serve_forever below
    token = os.environ.get("HUB_TOKEN") or secrets.token_urlsafe(24)
    hub = Hub((options.bind, options.port), token, options.limit, options.directory)
    try:
        print(f"http://{options.bind}:{hub.server_port}/", flush=True)
        if "HUB_TOKEN" not in os.environ:
            print(token, flush=True)
        hub.serve_forever()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # a second signal must not interrupt the ending of the notebooks
        hub.end()


if __name__ == "__main__":
    main()

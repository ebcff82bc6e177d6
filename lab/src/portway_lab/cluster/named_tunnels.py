"""Program: tunnels whose local servers answer with the name of the tunnel, until SIGTERM.

usage: python -m portway_lab.cluster.named_tunnels NAME ... --ready-file FILE [--raw] [--region REGION]

The answers are in visits.py. The ready file holds for each name: `url`, `host`, `port`, `raw_port` (0 without --raw)
and `ready_ms`, the milliseconds that forward() took. A tunnel that cannot be opened ends the program with a line that
says why. The client may be that of an older release (scripts/rolling_upgrade): only its documented API is used here.
"""

import argparse
import contextlib
import json
import signal
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any

import portway
from portway_runtime.secret_files import replace_file

from portway_lab.cluster.processes import OPENS_WITHIN
from portway_lab.cluster.visits import answer, answer_upload, pieces


class _Handler(socketserver.StreamRequestHandler):
    """One connection: answers requests until it ends."""

    disable_nagle_algorithm = True
    server: "_Server"

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while self._answer():
                pass

    def _answer(self) -> bool:
        method, _, rest = self.rfile.readline().decode("latin-1").partition(" ")
        fields: dict[str, str] = {}
        while line := self.rfile.readline().strip().decode("latin-1"):
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        if not rest:
            return False
        if method == "POST":
            length = int(fields["content-length"])
            body = self.rfile.read(length)
            if len(body) == length:
                self.wfile.write(answer_upload(self.server.name, body))
            return len(body) == length
        size, _, seconds = rest.partition(" ")[0].strip("/").partition("/")
        whole = answer(self.server.name, int(size or 0))
        for piece in pieces(whole) if seconds else [whole]:
            self.wfile.write(piece)
            time.sleep(float(seconds or 0) / 10)
        return True


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        threading.Thread(target=self.serve_forever, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(prog="named_tunnels", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="+", help="of the tunnels")
    parser.add_argument("--ready-file", type=Path, required=True, help="is written when all tunnels are open")
    parser.add_argument("--raw", action="store_true", help="give each tunnel a raw TCP port too")
    parser.add_argument("--region", help="attach to nodes of this region only")
    options = parser.parse_args()
    opened: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as open_tunnels:
        for name in options.names:
            server = _Server(name)
            began = time.perf_counter()
            opening = portway.forward(
                server.server_address[1], unencrypted=options.raw, region=options.region, timeout=OPENS_WITHIN
            )
            try:
                tunnel = open_tunnels.enter_context(opening)
            except portway.Error as error:
                sys.exit(f"{name} was not opened: {error}")
            opened[name] = {
                "url": tunnel.url,
                "host": tunnel.host,
                "port": tunnel.port,
                "ready_ms": (time.perf_counter() - began) * 1000,
                "raw_port": tunnel.unencrypted_port,
            }
        replace_file(options.ready_file, json.dumps(opened).encode(), durable=False)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    # Blocked here and so in every thread that starts later: sigwait receives it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()

"""The smallest example: a web server of the standard library, on the Internet for as long as this program runs.

    python web.py

The first line of standard output is the address. PORTWAY_REGISTRY, PORTWAY_TOKEN and PORTWAY_CA name the cluster.
"""

import argparse
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import portway


class Hello(BaseHTTPRequestHandler):
    """Answers every GET with the same line."""

    def do_GET(self) -> None:
        page = b"Hello from behind a tunnel.\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)


def main() -> None:
    argparse.ArgumentParser(description="Put a small web server on the Internet.").parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())  # leaves the with-blocks in order
    with ThreadingHTTPServer(("127.0.0.1", 0), Hello) as server, portway.forward(server.server_port) as tunnel:
        print(tunnel.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

"""Receive webhooks at a URL that stays: started again, on this machine or another, it has the same one.

    python webhooks.py --key ~/.config/portway/webhooks.key

The first line of standard output is the address; each request that is received follows as one line of JSON. The key
file is made at the first start. Keep it secret: whoever has it has the URL.
"""

import argparse
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import portway

# Bytes. Services that send webhooks stay far below; the URL may become known to others.
MOST = 1 << 20


class Receiver(BaseHTTPRequestHandler):
    """Writes each POST to standard output."""

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size > MOST:
            self.send_error(413)
            return
        received = {"path": self.path, "body": self.rfile.read(size).decode(errors="replace")}
        print(json.dumps(received), flush=True)
        self.send_response(204)
        self.end_headers()


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the webhooks that arrive at a URL that stays.")
    parser.add_argument("--key", metavar="FILE", default="~/.config/portway/webhooks.key", help="default: %(default)s")
    key = parser.parse_args().key
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())  # leaves the with-blocks in order
    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server, portway.forward(server.server_port, key=key) as one:
        print(one.url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

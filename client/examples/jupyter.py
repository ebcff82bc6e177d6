"""A Jupyter on the Internet: JupyterLab behind `forward(8888)`, until this is told to end.

    pip install portway jupyterlab
    python jupyter.py

The first line of standard output is the address to open, with the token that lets you in; it comes when JupyterLab
answers. Whoever has it can run code here.
"""

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import time

import portway

_LAB = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
# Visitors come by the tunnel's name; one that finds the port taken must not take another, which nobody forwards.
_BEHIND_A_TUNNEL = ["--ServerApp.allow_remote_access=True", "--ServerApp.port_retries=0"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a JupyterLab on the Internet.")
    parser.add_argument("--port", type=int, default=8888, help="where it listens on this machine; 0: a free one")
    parser.add_argument("--directory", default=".", help="what it shows; default: the current one")
    asked = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())  # leaves the with-blocks in order
    port = free_port(asked.port)
    token = secrets.token_urlsafe(24)
    with portway.forward(port) as tunnel:
        jupyter = subprocess.Popen(
            [*_LAB, *_BEHIND_A_TUNNEL, f"--ServerApp.port={port}", f"--ServerApp.root_dir={asked.directory}"],
            env=os.environ | {"JUPYTER_TOKEN": token},
            stdout=sys.stderr,
            start_new_session=True,  # Ctrl-C is for us: we end it in order
        )
        try:
            wait_until_it_listens(port, jupyter)
            print(f"{tunnel.url}/lab?token={token}", flush=True)
            sys.exit(jupyter.wait())
        finally:
            jupyter.terminate()
            jupyter.wait()


def free_port(port: int) -> int:
    """This one, if nobody else has it: theirs is not ours to publish. For 0, any."""
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            free: int = listener.getsockname()[1]
            return free
    except OSError as error:
        sys.exit(f"port {port} cannot be used: {error.strerror}")


def wait_until_it_listens(port: int, server: "subprocess.Popen[bytes]") -> None:
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"JupyterLab ended with code {server.returncode}: is it installed?")


if __name__ == "__main__":
    main()

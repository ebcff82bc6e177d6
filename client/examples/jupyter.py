"""JupyterLab on the Internet: behind `forward(8888)`, until SIGTERM or Ctrl-C.

    pip install portway jupyterlab
    python jupyter.py

The first line of standard output is the address to open, with JupyterLab's token in it. It is printed when JupyterLab
answers. Everyone who has the address can run code on this machine.
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
# Requests have the tunnel's host name. If the port is taken, JupyterLab must not use another, which is not forwarded.
_BEHIND_A_TUNNEL = ["--ServerApp.allow_remote_access=True", "--ServerApp.port_retries=0"]
_LOOK_EVERY = 0.5  # seconds
_END_TIMEOUT = 6.0  # seconds; JupyterLab ends its kernels first, which have five


def main() -> None:
    parser = argparse.ArgumentParser(description="Put a JupyterLab on the Internet.")
    parser.add_argument("--port", type=int, default=8888, help="the port it listens on; 0: any free one; default: 8888")
    parser.add_argument("--directory", default=".", help="what it serves; default: the current folder")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit())  # leaves the with-blocks in order
    port = free_port(options.port)
    token = secrets.token_urlsafe(24)
    with portway.forward(port) as tunnel:
        jupyter = subprocess.Popen(
            [*_LAB, *_BEHIND_A_TUNNEL, f"--ServerApp.port={port}", f"--ServerApp.root_dir={options.directory}"],
            env=os.environ | {"JUPYTER_TOKEN": token},
            stdout=sys.stderr,
            start_new_session=True,  # Ctrl-C reaches this program only, which ends JupyterLab in order
        )
        try:
            wait_until_it_listens(port, jupyter)
            print(f"{tunnel.url}/lab?token={token}", flush=True)
            while jupyter.poll() is None:
                time.sleep(_LOOK_EVERY)  # a signal that the system gives to another thread is seen after it
            sys.exit(jupyter.returncode)
        finally:
            end(jupyter)


def free_port(port: int) -> int:
    """`port`, or for 0 any free port. Exits if another program uses it: that one must not be published."""
    try:
        with socket.create_server(("127.0.0.1", port)) as listener:
            free: int = listener.getsockname()[1]
            return free
    except OSError as error:
        sys.exit(f"port {port} cannot be used: {error.strerror}")


def wait_until_it_listens(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Exits if the server ends before."""
    while server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"JupyterLab ended with code {server.returncode}: is it installed?")


def end(server: "subprocess.Popen[bytes]") -> None:
    """Told twice: a signal that comes just before JupyterLab goes to sleep is seen with the next one."""
    for tell in (server.terminate, server.terminate, server.kill):
        tell()
        try:
            server.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            continue
        return


if __name__ == "__main__":
    main()

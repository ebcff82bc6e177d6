"""Run a registry and relay nodes in three regions on this machine, and publish a web page with them.

A folder below the system's temporary directory holds certificates, the registry's database and, for each process, a log
and a pid file.
"""

# Here: the output of the demo and when it ends. Not here: starting the cluster (cluster/portway.py).

import argparse
import http.server
import os
import secrets
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from portway_runtime.secret_files import replace_file

from portway_lab.cluster.delay_network import why_not
from portway_lab.cluster.portway import Cluster, NodePlan, RegistryPlan, start_cluster
from portway_lab.cluster.processes import OPENS_WITHIN, Processes, ProcessFailed
from portway_lab.cluster.regions import start_regions
from portway_lab.demo import regions as demo_regions
from portway_lab.demo.folders import make_folder, owned_folder

_REGIONS = (("fra", 50.1, 8.7), ("iad", 38.9, -77.4), ("syd", -33.9, 151.2))
_REQUEST_TIMEOUT = 20.0  # seconds; a request on one machine takes milliseconds
_WATCH_INTERVAL = 0.2


class _DemoFailed(Exception):
    """The processes run, but the page could not be requested."""


class _Ended(BaseException):
    """A signal ended the demo. Not an Exception, so that no handler takes it for a failure."""


def main() -> int:
    arguments = _parse()
    if arguments.regions and (reason := why_not()):
        print(f"scripts/demo --regions cannot run here: {reason}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN or number != signal.SIGHUP:  # nohup has ignored it on purpose
            signal.signal(number, _end)
    if arguments.env is not None and arguments.env.is_file():
        arguments.env.unlink()  # of an earlier cluster; a program that waits for the file must wait for this one's
    folder = make_folder()
    try:
        with (
            owned_folder(folder, keep_logs=arguments.env is not None),
            Processes(folder) as processes,
            _no_more_signals(),
        ):
            _run(arguments, folder, processes)
    except _Ended:
        return 0
    except (ProcessFailed, _DemoFailed) as failure:
        print(f"the demo failed: {failure}\nall logs: {folder}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace, folder: Path, processes: Processes) -> None:
    """Start the cluster, show it, and stay until a signal unless only a check was asked for."""
    regions = start_regions(processes) if arguments.regions else None
    if regions is not None:
        cluster, more = regions.cluster, demo_regions.exports(regions.network)
    else:
        cluster, more = start_cluster(processes, _plan(arguments), RegistryPlan(port=arguments.registry_port)), {}
    if arguments.env is not None:
        _write_exports(arguments.env, cluster, folder, more)
        print(f"ready; in another shell: . {shlex.quote(str(arguments.env.absolute()))}", flush=True)
        _stay(processes)
    elif regions is None:
        _show(cluster, folder, processes, arguments.check)
    else:
        _write_exports(folder / "env", cluster, folder, more)
        demo_regions.show(regions, processes)
        if not arguments.check:
            print(f"\nIt stays up until Ctrl-C. Logs: {folder}", flush=True)
            _stay(processes)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="end after one request; exit code 0 only if it was answered")
    mode.add_argument(
        "--env",
        type=Path,
        metavar="FILE",
        help="start the cluster only, in the foreground; when it is ready, FILE holds export lines for clients",
    )
    parser.add_argument(
        "--regions",
        action="store_true",
        help="put each region into a network namespace, with the round trips of real regions between them (needs root)",
    )
    parser.add_argument(
        "--registry-port", type=_port, default=0, metavar="PORT", help="of the registry; default: a free port"
    )
    parser.add_argument(
        "--relay-port",
        type=_port,
        default=0,
        metavar="PORT",
        help="of the first node, the next ones for the others; default: free ports",
    )
    arguments = parser.parse_args()
    if arguments.regions and (arguments.registry_port or arguments.relay_port):
        parser.error("with --regions every part has an address of its own: leave the ports out")
    return arguments


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535 - len(_REGIONS):
        raise argparse.ArgumentTypeError(f"{port} cannot be used as a port")
    return port


def _plan(arguments: argparse.Namespace) -> tuple[NodePlan, ...]:
    return tuple(
        NodePlan(
            f"{region}-1", region, latitude, longitude, port=arguments.relay_port and arguments.relay_port + offset
        )
        for offset, (region, latitude, longitude) in enumerate(_REGIONS)
    )


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended


@contextmanager
def _no_more_signals() -> Iterator[None]:
    """While processes are being ended, a second Ctrl-C must not interrupt it."""
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


def _write_exports(target: Path, cluster: Cluster, folder: Path, more: Mapping[str, str]) -> None:
    """Write the file atomically: a program that polls for it never reads half."""
    nodes = ",".join(f"{node.process.name}={node.listen}" for node in cluster.nodes)
    values = {**cluster.exports, "PORTWAY_DEMO_DIR": str(folder), "PORTWAY_DEMO_NODES": nodes, **more}
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    if target.exists():  # a pipe or a terminal
        target.write_text(text)
        return
    replace_file(target, text.encode(), durable=False)


def _stay(processes: Processes) -> None:
    """Return by _Ended only. A node that the user kills, to see what happens, ends nothing else."""
    while len(processes):
        for process in processes.forget_ended():
            print(f"{process.name} has ended; the others go on", file=sys.stderr)
        time.sleep(_WATCH_INTERVAL)
    raise _DemoFailed("every process has ended")


class _Page(http.server.BaseHTTPRequestHandler):
    """The local web server: one page, with a random word that no other server knows."""

    word = secrets.token_hex(8)

    def do_GET(self) -> None:
        body = f"Hello from behind a tunnel ({self.word}).\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


def _show(cluster: Cluster, folder: Path, processes: Processes, check: bool) -> None:
    """Publish a page and request it at its public address. Raises _DemoFailed."""
    os.environ.update(cluster.exports)
    os.environ["PORTWAY_PROXY"] = "direct"  # the cluster is on this machine
    import portway

    print(f"Portway runs here: a registry at {cluster.registry}, and relay nodes")
    for node in cluster.nodes:
        print(f"    {node.plan.name:<8} {node.listen}")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        started = time.perf_counter()
        try:
            with portway.forward(port, timeout=OPENS_WITHIN) as tunnel:
                took = (time.perf_counter() - started) * 1000
                print(f"\nforward({port}) was ready after {took:.0f} ms:\n    {tunnel.url}")
                _request(tunnel.url, cluster.ca)
                if not check:
                    _print_next_steps(cluster, folder)
                    _stay(processes)
        except portway.Error as error:
            raise _DemoFailed(f"forward({port}): {error}") from error
        finally:
            server.shutdown()


def _request(url: str, ca: Path) -> None:
    """Request the page with curl and print the command line. Raises _DemoFailed."""
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--cacert", str(ca), url]
    print(f"\nA visitor requests it:\n    curl --cacert {shlex.quote(str(ca))} {url}", flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_REQUEST_TIMEOUT, check=False)
    except FileNotFoundError as error:
        raise _DemoFailed(
            "its visitor is curl, which is not installed: install it (Debian: apt-get install curl)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _DemoFailed(f"no answer within {_REQUEST_TIMEOUT:.0f} s") from error
    print(f"    {(done.stdout or done.stderr).strip()}", flush=True)
    if done.returncode != 0:
        raise _DemoFailed(f"the request failed (curl's exit code {done.returncode})")
    if _Page.word not in done.stdout:
        raise _DemoFailed("the answer is not the page that was put behind the tunnel")


def _print_next_steps(cluster: Cluster, folder: Path) -> None:
    exports = folder / "env"
    _write_exports(exports, cluster, folder, {})
    programs = Path(sys.executable).parent
    print(
        f"""
It stays up until Ctrl-C. In another shell, a port of your own:
    . {exports}
    {programs}/portway forward 8000
What the cluster knows:
    PORTWAY_ADMIN_TOKEN=$(cat {cluster.admin_token_file}) {programs}/portway-admin nodes list
Logs: {folder}""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())

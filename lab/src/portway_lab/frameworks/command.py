"""Use web frameworks behind a tunnel as a user does, in a browser, with and without the setting that each needs because
it cannot see that it is behind https.

The frameworks are installed at pinned versions below .cache/frameworks: 1 GB, once. Prints a table. The exit code is 0
when each works with its setting, and fails without it. Needs chromium; Express is left out without node and npm.
"""

# Here: the cluster, the processes and the table. Not here: what a user does (users.py).

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from portway_testkit.processes.ports import free_port, wait_listening
from portway_testkit.processes.running_program import RunningProgram, needed

from portway_lab.cluster import chromium
from portway_lab.cluster.portway import Cluster, NodePlan, start_cluster
from portway_lab.cluster.processes import Processes, ProcessFailed
from portway_lab.frameworks.environment import Environment, NotInstalled, install
from portway_lab.frameworks.programs import FOLDER, own_variables, without_settings
from portway_lab.frameworks.users import CASES, Case

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_FRANKFURT: Final = NodePlan("fra-1", "fra", 50.1, 8.7)
# Not localhost, whose http:// a browser trusts as if it were https.
_DOMAIN: Final = "tunnels.test"
_SHOWN_WITHIN: Final = 45_000.0  # milliseconds: a kernel that starts on two cores
_MISSING_WITHIN: Final = 12_000.0  # without a setting: what then is not there does not come later
_CANNOT_RUN: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    wanted = _parse(arguments).frameworks
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    cases = [case for case in CASES if not wanted or case.framework.lower() in wanted]
    try:
        environment = install()
        with tempfile.TemporaryDirectory(prefix="pw-") as folder, Processes(Path(folder)) as processes:
            cluster = start_cluster(processes, (_FRANKFURT,), domain=_DOMAIN)
            with _browser(cluster) as browser:
                right = [_try(case, environment, processes, cluster, browser) for case in cases]
                return 0 if all(right) else 1
    except (NotInstalled, ProcessFailed) as failure:
        print(f"scripts/framework_test cannot run here: {failure}", file=sys.stderr)
        return _CANNOT_RUN


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/framework_test", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = [case.framework.lower() for case in CASES]
    parser.add_argument(
        "frameworks", nargs="*", type=str.lower, metavar="FRAMEWORK", help=f"of {', '.join(known)}; by default all"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.frameworks) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


@contextmanager
def _browser(cluster: Cluster) -> "Iterator[Browser]":
    """Chromium, which takes the region's certificate for a good one."""
    from playwright.sync_api import sync_playwright

    names = f"--host-resolver-rules=MAP *.{_DOMAIN} {_FRANKFURT.host}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=needed("chromium"),
            args=[names, *chromium.arguments(cluster.pki / "region-fra.crt")],
        )
        yield browser
        browser.close()


def _try(case: Case, environment: Environment, processes: Processes, cluster: Cluster, browser: "Browser") -> bool:
    """Print the case's line of the table; whether it is as docs/frameworks.md says."""
    program = FOLDER / case.program
    if program.suffix == ".js" and environment.node is None:
        print(f"{case.framework:17} left out: it needs node and npm", flush=True)
        return True
    version = environment.node_version if program.suffix == ".js" else environment.version
    text = without_settings(program)
    bare = "needs none"
    if text is not None:
        stripped = processes.folder / f"without_{case.program}"
        stripped.write_text(text)
        bare = _outcome(case, stripped, _MISSING_WITHIN, environment, processes, cluster, browser)
    whole = _outcome(case, program, _SHOWN_WITHIN, environment, processes, cluster, browser)
    print(f"{case.framework:17} {version(case.package):9} {case.does:42} with: {whole}", flush=True)
    print(f"{'':70} without: {bare}", flush=True)
    return whole == "works" and bare != "works"


def _outcome(
    case: Case,
    program: Path,
    within: float,
    environment: Environment,
    processes: Processes,
    cluster: Cluster,
    browser: "Browser",
) -> str:
    """`works`, or what the user and the browser see instead."""
    from playwright.sync_api import Error

    port = free_port()
    home = Path(tempfile.mkdtemp(dir=processes.folder))
    own = own_variables(home) | {"NODE_PATH": str(environment.node_path), "GRADIO_ANALYTICS_ENABLED": "False"}
    runner = environment.node if program.suffix == ".js" else environment.python
    portway: list[str | Path] = [Path(sys.executable).parent / "portway", "forward", str(port)]
    log = processes.folder / f"{program.stem}.log"
    variables = {**os.environ, **own, "PWD": str(home)}
    served: list[str | Path] = ["env", f"--chdir={home}", str(runner), str(program), str(port)]
    with (
        RunningProgram(served, variables, log) as server,
        RunningProgram(portway, {**os.environ, **cluster.exports}, log) as tunnel,
    ):
        url = tunnel.line()
        wait_listening(port, server.check_alive)
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(within)
        seen = _watch(page)
        try:
            case.use(page, url)
        except Error as error:
            return "; ".join(seen[:2]) or error.message.splitlines()[0]
        finally:
            context.close()
    return "works"


def _watch(page: "Page") -> list[str]:
    """What goes wrong on a page, as its browser says it: mixed content, refused answers."""
    seen: list[str] = []

    def add(text: str) -> None:
        if text not in seen:
            seen.append(text)

    page.on("console", lambda message: add("Mixed Content: blocked") if "Mixed Content" in message.text else None)
    page.on(
        "response",
        lambda answer: add(f"{answer.status} {answer.request.method}") if answer.status > 399 else None,
    )
    return seen


if __name__ == "__main__":
    sys.exit(main())

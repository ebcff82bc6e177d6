"""Build the handbook, or show it while it is written.

The pages are docs/ and the README files of the distributions; the site loads nothing from anywhere else. The script
that draws diagrams is fetched once, with npm.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from portway_lab.checkout import ROOT
from portway_lab.handbook.pages import blocks, pages
from portway_lab.handbook.vendored import NotInstalled, mermaid


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/docs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--serve", metavar="HOST:PORT", help="serve the site there, and build pages again as they change"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/handbook", metavar="DIR", help="default: build/handbook"
    )
    parser.add_argument("--not-run", action="store_true", help="list the commands of pages that no test runs, and why")
    arguments = parser.parse_args()
    if arguments.not_run:
        _list_not_run()
        return 0
    try:
        mermaid()
    except NotInstalled as error:
        print(f"scripts/docs: {error}", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "mkdocs"]
    if arguments.serve:
        command += ["serve", "--dev-addr", arguments.serve, "--strict"]
    else:
        command += ["build", "--strict", "--site-dir", str(arguments.out.absolute())]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    # Not --quiet: it would hide warnings from --strict.
    command += ["--config-file", str(ROOT / "mkdocs.yml")]
    if arguments.serve:
        return subprocess.run(command, env=environment, check=False).returncode
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    print(
        "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("INFO")), file=sys.stderr
    )
    if done.returncode == 0:
        print(f"built: {arguments.out}/index.html")
    return done.returncode


def _list_not_run() -> None:
    for page in pages():
        for block in blocks(page):
            if block.why:
                print(f"{block.place}: {block.why}; instead: {block.instead}")


if __name__ == "__main__":
    sys.exit(main())

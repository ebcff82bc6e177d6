"""Where the frameworks are installed, apart from everything else: `.cache/frameworks`, at the pinned versions."""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_lab.checkout import ROOT

_HERE: Final = Path(__file__).parent
_REQUIREMENTS: Final = _HERE / "requirements.txt"
_PACKAGE: Final = _HERE / "package.json"
_FOLDER: Final = ROOT / ".cache/frameworks"


class NotInstalled(Exception):
    """The frameworks cannot be installed; says why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What the programs are run with. `node` is None where there is no Node.js or no npm."""

    python: Path
    node: Path | None
    node_path: Path

    def version(self, package: str) -> str:
        """The installed version of a Python package."""
        say = f"from importlib.metadata import version; print(version({package!r}))"
        return subprocess.run([self.python, "-c", say], capture_output=True, text=True, check=True).stdout.strip()

    def node_version(self, package: str) -> str:
        """The installed version of a Node.js package."""
        say = f"console.log(require({str(self.node_path / package / 'package.json')!r}).version)"
        return subprocess.run([str(self.node), "-e", say], capture_output=True, text=True, check=True).stdout.strip()


def install() -> Environment:
    """Install what is not installed yet: 1 GB, a minute or two. Raises NotInstalled."""
    pinned = _REQUIREMENTS.read_bytes() + _PACKAGE.read_bytes() + sys.version.encode()
    folder = _FOLDER / hashlib.sha256(pinned).hexdigest()[:12]
    node, npm = shutil.which("node"), shutil.which("npm")
    made = Environment(folder / "venv/bin/python", Path(node) if node and npm else None, folder / "node_modules")
    done = folder / ("installed" if made.node else "installed_without_node")
    if done.exists():
        return made
    shutil.rmtree(_FOLDER, ignore_errors=True)
    folder.mkdir(parents=True)
    uv = shutil.which("uv") or next(map(str, sorted(ROOT.glob(".tools/uv-*/bin/uv"))), "")
    commands = [
        [uv, "venv", "--quiet", "--python", sys.executable, str(folder / "venv")],
        [uv, "pip", "install", "--quiet", "--python", str(made.python), "--requirements", str(_REQUIREMENTS)],
    ]
    if npm and node:
        shutil.copy(_PACKAGE, folder)
        commands.append([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)])
    for command in commands:
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise NotInstalled(f"the frameworks cannot be installed: {error}") from error
    done.touch()
    return made

"""What the site's pages load and no Python package brings: fetched with npm into `.cache/handbook`, at its version."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

from portway_lab.checkout import ROOT

_PACKAGE: Final = Path(__file__).parent / "package.json"
_FOLDER: Final = ROOT / ".cache/handbook"
# Where it is on the site.
MERMAID: Final = "assets/vendored/mermaid.min.js"


class NotInstalled(Exception):
    """npm could not install what the pages load; says why."""


def mermaid() -> Path:
    """The script that draws diagrams; installed if it is not yet. Raises NotInstalled."""
    pinned = json.loads(_PACKAGE.read_text())["dependencies"]["mermaid"]
    folder = _FOLDER / hashlib.sha256(_PACKAGE.read_bytes()).hexdigest()[:12]
    script = folder / "mermaid.min.js"
    if script.exists():
        return script
    npm = shutil.which("npm")
    if npm is None:
        raise NotInstalled("npm is needed for the diagrams' script: install it (Debian: apt-get install npm)")
    folder.mkdir(parents=True, exist_ok=True)
    # The package alone: its script has everything in it, and needs none of its dependencies.
    try:
        packed = subprocess.run(
            [npm, "pack", "--silent", f"mermaid@{pinned}", "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()[-1]
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotInstalled(f"npm could not fetch mermaid {pinned}: {error}") from error
    archive = folder / packed
    subprocess.run(
        ["tar", "-xzf", archive, "-C", folder, "--strip-components=2", "package/dist/mermaid.min.js"], check=True
    )
    archive.unlink()
    return script

"""The example programs of client/examples/frameworks, as they are and without their settings."""

from pathlib import Path
from typing import Final

from portway_lab.checkout import ROOT

FOLDER: Final = ROOT / "client/examples/frameworks"
# What ends each line that tells a framework that it is behind https.
SETTING: Final = "the setting"


def without_settings(program: Path) -> str | None:
    """The program's text without the lines that are settings; None when there is none."""
    lines = program.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.rstrip().endswith(SETTING)]
    return None if len(kept) == len(lines) else "".join(kept)

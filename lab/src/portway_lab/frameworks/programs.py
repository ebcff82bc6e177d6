"""The example programs of client/examples/frameworks, as they are and without their settings, and where they run."""

import json
from pathlib import Path
from typing import Final

from portway_lab.checkout import ROOT

FOLDER: Final = ROOT / "client/examples/frameworks"
# What ends each line that tells a framework that it is behind https.
SETTING: Final = "the setting"
JUPYTER_TOKEN: Final = "a-token"


def without_settings(program: Path) -> str | None:
    """The program's text without the lines that are settings; None when there is none."""
    lines = program.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.rstrip().endswith(SETTING)]
    return None if len(kept) == len(lines) else "".join(kept)


def own_variables(home: Path) -> dict[str, str]:
    """Variables for a program below the folder `home`, which exists. A Jupyter server has this token there, in place of
    one that it makes, and root may run it."""
    settings = home / "jupyter_config"
    settings.mkdir()
    (settings / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": {"allow_root": True}}))
    return {
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(settings),
        "JUPYTER_DATA_DIR": str(home / "jupyter_data"),
        "JUPYTER_TOKEN": JUPYTER_TOKEN,
    }

"""The programs that a release is built with: uv of scripts/setup, and packages and programs of the system."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from portway_lab.checkout import ROOT
from portway_lab.release.errors import ReleaseFailed

# Of the environment of whoever builds, builds get no more than this: how to reach a package index is among it.
_KEPT = ("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")
_KEPT_PREFIXES = ("UV_", "PIP_")
_NOT_KEPT = ("UV_PROJECT_ENVIRONMENT", "UV_PYTHON")


def run(command: Sequence[object], folder: Path = ROOT, **variables: str) -> str:
    """Run a program to its end, and return its standard output. The words of `command` are texts or paths; `variables`
    are added to its environment.

    Raises ReleaseFailed with what it printed.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=_environment() | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " ".join(str(word) for word in command[:4])
        raise ReleaseFailed(f"{words}… ended with {done.returncode}:\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def uv() -> str:
    """The uv on PATH, or the one that scripts/setup installed."""
    kept = sorted(map(str, ROOT.glob(".tools/uv-*/bin/uv")))
    return shutil.which("uv") or (kept[-1] if kept else program("uv", "uv"))


def program(name: str, package: str) -> str:
    """The path of a program of the system; it may be outside a user's PATH, as Debian has it."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if found is None:
        raise ReleaseFailed(f"{name} is missing: apt-get install {package}")
    return found


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and name not in _NOT_KEPT
    }
    return kept | {"LC_ALL": "C.UTF-8", "TZ": "UTC"}

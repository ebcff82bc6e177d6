"""The commands in scripts/."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from portway_lab.checkout import ROOT

NAMES = sorted(path.name for path in (ROOT / "scripts").iterdir())
# How a document shows a command: up to the end of the line, of the code, or to a comment.
_SHOWN = re.compile(r"\bscripts/(?P<name>[a-z_]+)(?P<words>[^\n`|#;]*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_TO_PYTEST = {"attack", "test"}  # what they do not know themselves goes there


@cache
def help_of(name: str) -> str:
    done = subprocess.run([ROOT / "scripts" / name, "--help"], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents() -> Iterator[Path]:
    """Those of the repository; the list of changes is about earlier releases, too."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    yield from (ROOT / name for name in listed.stdout.splitlines() if name != "CHANGELOG.md")


@pytest.mark.parametrize("name", NAMES)
def test_a_command_explains_itself(name: str) -> None:
    """--help says how the command is called and what it does, and does nothing."""
    usage, _, description = help_of(name).partition("\n\n")
    assert usage.startswith(f"usage: scripts/{name}")
    assert len(description.split()) > 20


def test_documents_show_options_that_there_are() -> None:
    """Also those of commands that no test runs, because they take minutes or need root."""
    wrong, seen = [], 0
    for document in documents():
        for found in _SHOWN.finditer(document.read_text()):
            name = found["name"]
            if name not in NAMES or name in _TO_PYTEST:
                continue
            known = set(_OPTION.findall(help_of(name)))
            options = _OPTION.findall(found["words"])
            seen += len(options)
            wrong += [f"{document.relative_to(ROOT)}: scripts/{name} {one}" for one in options if one not in known]
    assert wrong == []
    assert seen > 20

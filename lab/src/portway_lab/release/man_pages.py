"""Man pages, one for each program, made of what the program and each of its commands print with --help.

help2man makes the page of the program's own help. What its commands print follows as it is.
"""

import gzip
import re
import shlex
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from portway_lab.release import tools
from portway_lab.release.errors import ReleaseFailed
from portway_lab.release.tree import Tree

_WORKERS: Final = 4
_COLUMNS: Final = "80"
# argparse writes its headings in lower case, which help2man does not know.
_AS_HELP2MAN_KNOWS_IT: Final = "'s/^usage: /Usage: /; s/^options:$/Options:/'"
# How argparse and click list commands: below a heading, indented, each with a help text that may be on the next line.
_LIST = re.compile(r"^(?:positional arguments:\n  COMMAND\n|Commands:\n)(?P<lines>(?: +.*\n)+)", re.MULTILINE)
_COMMAND = re.compile(r"^ {2,4}(?P<name>[a-z][a-z-]*)(?=\s|$)", re.MULTILINE)
_DESCRIPTION = re.compile(r"\n\n\s*(?P<sentence>.+?)(?:\.\s|\.$|\n\n)", re.DOTALL)


def write(tree: Tree, version: str, epoch: int, folder: Path) -> list[Path]:
    """Write the page of each program of a tree into a folder, compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    work = tree.root.parent / "man-pages"
    work.mkdir(exist_ok=True)
    with ThreadPoolExecutor(_WORKERS) as pool:
        return list(pool.map(lambda program: _write(tree, program, version, epoch, work, folder), tree.programs))


def _write(tree: Tree, program: Path, version: str, epoch: int, work: Path, folder: Path) -> Path:
    """help2man runs the program itself, by the name that it has when it is installed."""
    interpreter = tree.prefix / "bin" / "python3"
    starter = work / program.name
    run = f'{shlex.quote(str(interpreter))} {shlex.quote(str(program))} "$@"'
    starter.write_text(f"#!/bin/sh\nCOLUMNS={_COLUMNS} {run} | sed {_AS_HELP2MAN_KNOWS_IT}\n")
    starter.chmod(0o755)
    own, *others = _helps(starter, [])
    sections = work / f"{program.name}.sections"
    sections.write_text("".join(_section(program.name, words, text) for words, text in others))
    command = [tools.program("help2man", "help2man"), "--no-info", f"--version-string={version}"]
    command += [f"--source=Portway {version}", f"--name={_sentence(own[1])}"]
    command += [f"--include={sections}"] if others else []
    page = tools.run([*command, starter], SOURCE_DATE_EPOCH=str(epoch))
    path = folder / f"{program.name}.1.gz"
    path.write_bytes(gzip.compress(page.encode(), mtime=0))
    return path


def _helps(program: Path, words: list[str]) -> Iterator[tuple[list[str], str]]:
    """The words of a command, of its commands, and so on, each with what it prints with --help."""
    text = tools.run([program, *words, "--help"])
    yield words, text
    listed = _LIST.search(text)
    for name in _COMMAND.findall(listed["lines"]) if listed else ():
        yield from _helps(program, [*words, name])


def _section(program: str, words: Iterable[str], text: str) -> str:
    shown = re.sub(r"^(?=[.'])", r"\\&", text.replace("\\", r"\e").replace("-", r"\-"), flags=re.MULTILINE)
    return f"[{' '.join((program, *words))}]\n.EX\n{shown}.EE\n\n"


def _sentence(text: str) -> str:
    """What a program is, from its help: its first sentence."""
    found = _DESCRIPTION.search(text)
    if found is None:
        raise ReleaseFailed(f"no description in the help of a program: {text[:200]}")
    return " ".join(found["sentence"].split())

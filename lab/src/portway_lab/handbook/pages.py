"""The blocks of the handbook's pages that a reader types: commands, programs, and the files that these use.

A comment above a block says how it is tried:

    <!-- not run: WHY; instead: PATH -->   it is not; PATH, a test or a script, validates it in another way
    <!-- keeps running -->                 its commands stay while the rest of the page is tried

Without one, its commands are run one after the other, and each must succeed. Not here: running them (session.py).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from portway_lab.checkout import ROOT
from portway_lab.handbook.outside import SOURCE_OF

# Sections of the site whose pages a reader follows at a keyboard.
_SECTIONS: Final = ("Operators", "Clients", "Tests")
_COMMANDS: Final = frozenset({"console", "sh", "bash", "shell"})
_PROGRAMS: Final = frozenset({"python"})
_OPENING: Final = re.compile(r"^(?P<indent> *)```(?P<language>\w+)?(?: +title=\"(?P<title>[^\"]+)\")?\s*$")
_MARK: Final = re.compile(r"^\s*<!-- (?P<mark>.*) -->\s*$")
_NOT_RUN: Final = re.compile(r"not run: (?P<why>.+); instead: (?P<instead>\S+)")
_KEEPS_RUNNING: Final = "keeps running"
_PROMPT: Final = re.compile(r"^[$#] ")


class BadPage(Exception):
    """A page whose blocks cannot be understood; names the line."""


@dataclass(frozen=True, slots=True)
class Command:
    """A line that is typed, with those that continue it, and what the page says is printed."""

    text: str
    output: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """`title` is the name of the file that it is; `why` and `instead` are empty unless it is not run."""

    page: Path
    line: int
    language: str
    title: str
    text: str
    keeps_running: bool
    why: str
    instead: str

    @property
    def place(self) -> str:
        return f"{_shown(self.page)}:{self.line}"

    @property
    def is_file(self) -> bool:
        return bool(self.title)

    @property
    def is_typed(self) -> bool:
        """Commands, and programs that are no file."""
        return not self.title and self.language in _COMMANDS | _PROGRAMS

    @property
    def runs(self) -> bool:
        return self.is_typed and not self.why

    def commands(self) -> list[Command]:
        """Of a block of a console. Raises BadPage."""
        found: list[Command] = []
        lines = self.text.splitlines()
        while lines:
            line = lines.pop(0)
            if not _PROMPT.match(line):
                raise BadPage(f"{self.place}: the first line of a console has no prompt: {line!r}")
            typed = [_without_comment(line[2:])]
            while typed[-1].endswith("\\") and lines:
                typed.append(lines.pop(0).strip())
                typed[-2] = typed[-2][:-1]
            printed: list[str] = []
            while lines and not _PROMPT.match(lines[0]):
                printed.append(lines.pop(0))
            found.append(Command(" ".join(part.strip() for part in typed), tuple(filter(None, printed))))
        return found


def pages() -> list[Path]:
    """The sources of the pages in the site's sections for operators, clients and testers, in the site's order."""
    found: list[Path] = []
    for section in _settings()["nav"]:
        ((name, entries),) = section.items()
        if name in _SECTIONS:
            for entry in entries:
                page = entry if isinstance(entry, str) else next(iter(entry.values()))
                found.append(ROOT / SOURCE_OF.get(page, f"docs/{page}"))
    return found


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order. Raises BadPage."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text().splitlines()
    mark, number = "", 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if found := _MARK.match(line):
            mark = found["mark"]
            continue
        opening = _OPENING.match(line)
        if opening is None:
            if line.strip():
                mark = ""
            continue
        start, body = number, []
        while number < len(lines) and lines[number].strip() != "```":
            body.append(lines[number].removeprefix(opening["indent"]))
            number += 1
        number += 1
        yield _block(page, start, opening, "\n".join(body) + "\n", mark)
        mark = ""


def _block(page: Path, line: int, opening: re.Match[str], text: str, mark: str) -> Block:
    not_run = _NOT_RUN.fullmatch(mark)
    block = Block(
        page,
        line,
        opening["language"] or "",
        opening["title"] or "",
        text,
        mark == _KEEPS_RUNNING,
        not_run["why"] if not_run else "",
        not_run["instead"] if not_run else "",
    )
    if mark and not not_run and not block.keeps_running and block.is_typed:  # others' comments are above other blocks
        raise BadPage(f"{block.place}: a mark that is not known: {mark}")
    return block


def _shown(page: Path) -> str:
    return str(page.relative_to(ROOT) if page.is_relative_to(ROOT) else page)


def _without_comment(line: str) -> str:
    return re.split(r"\s{2,}# ", line)[0].rstrip()


class _Loader(yaml.SafeLoader):
    """Ignores what mkdocs.yml says in tags of Python."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def _settings() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)
    return loaded

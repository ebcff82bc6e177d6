"""The documents of the repository: links lead somewhere, tables can be read, the decisions are complete."""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_DECISIONS = _ROOT / "docs" / "decisions"
# A longer cell is a paragraph, and belongs below the table.
_LONGEST_CELL = 160
_GENERATED = {"__pycache__", "build", "dist", "node_modules"}
_FENCE = re.compile(r"^ *```")
_LINK = re.compile(r"\[[^][]*(?:\[[^][]*\][^][]*)*\]\(([^()\s]+)\)")
_SCRIPT = re.compile(r"\bscripts/([a-z_]+)")
_CELL_BORDER = re.compile(r"(?<!\\)\|")
_STATUS = re.compile(r"Status: (?:accepted|superseded by \[\d{4}\]\(\d{4}[\w-]+\.md\)) · Date: \d{4}-\d{2}-\d{2}")


def _files() -> Iterator[Path]:
    """The files of the repository, without what tools put beside them."""
    for folder, folders, names in os.walk(_ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _GENERATED]
        yield from (Path(folder, name) for name in names)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The numbered lines of a document, without its code blocks."""
    in_code = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if _FENCE.match(line):
            in_code = not in_code
        elif not in_code:
            yield number, line


@cache
def _anchors(path: Path) -> frozenset[str]:
    """The anchors that a hosting site makes of the document's headings."""
    headings = (line.lstrip("#").strip() for _, line in _lines(path) if line.startswith("#"))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


DOCUMENTS = sorted(path for path in _files() if path.suffix == ".md")


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_relative_links_lead_to_files_and_headings(document: Path) -> None:
    """Every link of every document that stays in the repository, with its anchor."""
    broken = []
    for number, line in _lines(document):
        for link in _LINK.findall(line):
            target, _, anchor = link.partition("#")
            path = (document.parent / target).resolve() if target else document
            if "://" in link or link.startswith("mailto:"):
                continue
            if not path.exists() or (anchor and path.suffix == ".md" and anchor not in _anchors(path)):
                broken.append(f"line {number}: {link}")
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_table_cells_are_short(document: Path) -> None:
    """No cell of any document has more than 160 characters."""
    long = [
        f"line {number}: {len(cell.strip())} characters"
        for number, line in _lines(document)
        if line.startswith("|")
        for cell in _CELL_BORDER.split(line.strip().strip("|"))
        if len(cell.strip()) > _LONGEST_CELL
    ]
    assert not long


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_commands_in_scripts_exist(document: Path) -> None:
    """Each `scripts/NAME` that a document names, also in its code blocks."""
    named = set(_SCRIPT.findall(document.read_text()))
    assert {name for name in named if not (_ROOT / "scripts" / name).is_file()} == set()


def test_no_file_refers_to_sections_of_a_design_that_is_not_here() -> None:
    """References name a page below docs/ or a section of WIRE.md."""
    reference = "DESIGN" + " §"
    texts = (path for path in _files() if path.suffix in {".md", ".proto", ".py", ".pyi", ".service", ".toml", ".yaml"})
    assert [_name(path) for path in texts if reference in path.read_text()] == []


def test_decisions_have_numbers_in_a_row_a_status_and_a_date() -> None:
    """The heading repeats the file's number, and the line after it says what the decision's status is."""
    pages = sorted(path for path in _DECISIONS.glob("*.md") if path.name != "README.md")
    assert [int(path.name[:4]) for path in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        heading, _, status = page.read_text().splitlines()[:3]
        assert heading.startswith(f"# {int(page.name[:4])}. ")
        assert _STATUS.fullmatch(status), page.name


def test_the_index_of_decisions_repeats_the_pages() -> None:
    """Number, title, file, date and status of each, in order."""
    rows = [line for _, line in _lines(_DECISIONS / "README.md") if re.match(r"\| \d", line)]
    expected = []
    for page in sorted(path for path in _DECISIONS.glob("*.md") if path.name != "README.md"):
        heading, _, line = page.read_text().splitlines()[:3]
        number, title = heading.removeprefix("# ").split(". ", 1)
        status, date = line.removeprefix("Status: ").split(" · Date: ")
        expected.append(f"| {number} | [{title}]({page.name}) | {date} | {status} |")
    assert rows == expected


def test_the_root_has_nothing_that_does_not_belong_there() -> None:
    """Such as what a shell or a tool has written. Checked is what git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=_ROOT, capture_output=True, text=True, check=True).stdout
    documents = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE", "README.md", "SECURITY.md"}
    settings = {".ci", ".gitignore", ".pre-commit-config.yaml", "mkdocs.yml", "pyproject.toml", "uv.lock"}
    distributions = {path.parent.name for path in _ROOT.glob("*/pyproject.toml")}
    others = {"deploy", "docs", "scripts", "tests"}
    assert {name.partition("/")[0] for name in listed.split("\0")[:-1]} == documents | settings | distributions | others


def test_the_runtime_s_table_has_every_module_from_the_bottom_up() -> None:
    """A module imports only modules above it."""
    table = re.findall(r"^\| `(\w+)` \|", (_ROOT / "runtime/README.md").read_text(), re.MULTILINE)
    source = _ROOT / "runtime/src/portway_runtime"
    assert sorted(table) == sorted(path.stem for path in source.glob("*.py") if path.stem != "__init__")
    for number, name in enumerate(table):
        text = (source / f"{name}.py").read_text()
        imported = set(re.findall(r"from portway_runtime\.(\w+) import", text))
        for names in re.findall(r"from portway_runtime import ([\w, ]+)", text):
            imported |= set(names.split(", "))
        assert imported <= set(table[:number]), name


@pytest.mark.parametrize(
    ("folder", "source", "heading"),
    [
        ("server", "portway_server", "## Modules"),
        ("client", "portway", "## What is in it"),
        ("relay_node", "portway_relay", "## What is in it"),
        ("registry", "portway_registry", "## What is in it"),
        ("tests/testkit", "portway_testkit", "| folder | what is there |"),
    ],
)
def test_a_table_of_modules_has_every_one(folder: str, source: str, heading: str) -> None:
    """And no other."""
    _, _, text = (_ROOT / folder / "README.md").read_text().partition(heading)
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    table = {name for row in rows for name in re.findall(r"`([a-z_]+)(?:/|\.py)?`", row)}
    known = {path.name.removesuffix(".py") for path in (_ROOT / folder / "src" / source).iterdir()}
    assert table == known - {"__init__", "__main__", "py.typed", "__pycache__"}


def test_the_lab_s_table_has_every_command() -> None:
    """And every package."""
    text = (_ROOT / "lab/README.md").read_text()
    table = set(re.findall(r"^\| `([\w.]+)/?` \|", text, re.MULTILINE))
    source = _ROOT / "lab/src/portway_lab"
    assert table == {path.name for path in source.iterdir()} - {"__init__.py", "py.typed", "__pycache__"}

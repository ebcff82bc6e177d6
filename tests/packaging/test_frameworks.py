"""docs/frameworks.md shows the programs that scripts/framework_test runs, and its figures are those of its versions."""

import re
from pathlib import Path

import pytest
from portway_lab.frameworks.command import _try
from portway_lab.frameworks.environment import Environment
from portway_lab.frameworks.programs import FOLDER, SETTING, without_settings
from portway_lab.frameworks.users import CASES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/frameworks.md").read_text()
PROGRAMS = sorted(path.name for path in FOLDER.iterdir() if path.suffix in (".py", ".js"))
VERSIONS = (ROOT / "lab/src/portway_lab/frameworks/requirements.txt").read_text() + (
    ROOT / "lab/src/portway_lab/frameworks/package.json"
).read_text()


def test_every_program_is_run() -> None:
    """And none that is not there."""
    assert sorted(case.program for case in CASES) == PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_page_shows_the_program(name: str) -> None:
    """Its whole text, below a link to it."""
    shown = re.search(
        rf"\(\.\./client/examples/frameworks/{re.escape(name)}\):\n\n(?:<!-- [^\n]+ -->\n)?```\w+\n(.*?)```\n",
        PAGE,
        re.DOTALL,
    )
    assert shown is not None
    assert shown[1] == (FOLDER / name).read_text()


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_opens_a_door(name: str) -> None:
    """People copy them: none has a token or a password in it that everybody can read here, and none runs as root."""
    text = (FOLDER / name).read_text()
    known = r"""(token|password|secret(_key)?)["']?\s*[=:]\s*["']|[.-](token|password)=\w|allow.root"""
    assert not re.search(known, text, re.IGNORECASE)


def test_express_is_left_out_without_npm(capsys: pytest.CaptureFixture[str]) -> None:
    """Which says what is missing."""
    (case,) = [case for case in CASES if case.program.endswith(".js")]
    environment = Environment(Path("python"), None, Path("node_modules"))
    assert _try(case, environment, None, None, None)  # type: ignore[arg-type]
    assert "it needs node and npm" in capsys.readouterr().out


def test_the_version_is_that_of_the_node_that_runs_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever `node` the path has later."""
    node = tmp_path / "node"
    node.write_text("#!/bin/sh\necho 4.5.6\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    assert Environment(Path("python"), node, tmp_path).node_version("express") == "4.5.6"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.framework)
def test_the_table_says_what_is_run(case: object) -> None:
    """A framework whose program has a setting needs it by the table too, and its version is the pinned one."""
    from portway_lab.frameworks.users import Case

    assert isinstance(case, Case)
    name = case.framework.partition(" ")[0].removesuffix("Lab")
    (row,) = re.findall(rf"^\| \[{name}\]\(.*$", PAGE, re.MULTILINE)
    _, versions, without, setting, _ = (cell.strip() for cell in row.split("|"))
    needs = without_settings(FOLDER / case.program) is not None
    assert (without != "works", setting != "–") == (needs, needs)
    (pinned,) = re.findall(rf'^\s*"?{case.package}(?:\[\w+\])?"?(?:==|: ")(\d+\.\d+)', VERSIONS, re.MULTILINE)
    assert pinned in versions


def test_without_its_settings_a_program_is_whole_but_for_them() -> None:
    """Lines are left out, and none is changed."""
    program = FOLDER / "django_form.py"
    text = without_settings(program)
    assert text is not None
    assert SETTING not in text
    whole = program.read_text().splitlines()
    assert [line for line in whole if line not in text.splitlines()] == ["served = https  # the setting"]

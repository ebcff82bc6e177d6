"""docs/doctor.md lists every finding that `portway-admin doctor` can have, and no other."""

import re
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PAGE = (_ROOT / "docs/doctor.md").read_text()


def _in_code() -> dict[str, set[str]]:
    """By kind the severities that the code names beside it."""
    found: dict[str, set[str]] = {}
    for path in (_ROOT / "registry/src/portway_registry/doctor").glob("*.py"):
        for kind, severity in re.findall(r'Finding\(\s+"([a-z-]+)",\s+([^\n]+),\n', path.read_text()):
            named = {word.lower() for word in re.findall(r"Severity\.([A-Z]+)", severity)}
            found[kind] = found.get(kind, set()) | (named or {"warning", "error"})
    return found


def test_the_page_has_every_finding_and_its_severities() -> None:
    """Each once, in a table."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", _PAGE, re.MULTILINE)
    assert len(rows) == len({kind for kind, _ in rows})
    assert {kind: set(severities.split(", ")) for kind, severities in rows} == _in_code()


def test_symptoms_name_findings_that_there_are() -> None:
    """A finding that was renamed is renamed there as well."""
    symptoms = _PAGE.partition("## From the symptom")[2].partition("## Findings")[0]
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", symptoms)) <= _in_code().keys()

"""The content of proto/WIRE.md and proto/vectors as values, to compare the code with."""

import json
import re
from pathlib import Path
from typing import Any, Final

PROTO: Final = Path(__file__).resolve().parents[4] / "proto"


def vectors(name: str) -> dict[str, Any]:
    """One file of proto/vectors."""
    loaded: dict[str, Any] = json.loads((PROTO / "vectors" / f"{name}.json").read_text())
    return loaded


def table(*headers: str) -> list[dict[str, str]]:
    """The rows of the only table in WIRE.md whose header begins with `headers`; cells without backquotes."""
    lines = (PROTO / "WIRE.md").read_text().splitlines()
    starts = [at for at, line in enumerate(lines) if tuple(_cells(line)[: len(headers)]) == headers]
    if len(starts) != 1:
        raise LookupError(f"WIRE.md has {len(starts)} tables that begin with {headers}")
    names = _cells(lines[starts[0]])
    rows = []
    for line in lines[starts[0] + 2 :]:
        if not line.startswith("|"):
            break
        rows.append(dict(zip(names, _cells(line), strict=True)))
    return rows


def example_frames() -> list[tuple[str, bytes]]:
    """The frames of WIRE.md's worked example: the direction (`O>A`, `A>O`) and the bytes."""
    found = re.findall(r"^([OA]>[OA])((?: +[0-9a-f]+)+)$", (PROTO / "WIRE.md").read_text(), re.MULTILINE)
    return [(direction, bytes.fromhex(digits)) for direction, digits in found]


def _cells(line: str) -> list[str]:
    return [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []

"""Settings as a TOML file with a comment for each that needs one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Value = str | int | float | Path | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Line:
    """One setting. Without a value it is not written."""

    key: str
    value: Value
    comment: str = ""


def rendered(heading: Sequence[str], lines: Sequence[Line]) -> str:
    """The text of a file: the heading as comments, then the settings, each below its comment."""

    def told() -> Iterator[str]:
        yield from (f"# {line}" for line in heading)
        for line in lines:
            if line.value is not None:
                if line.comment:
                    yield ""
                    yield f"# {line.comment[0].upper()}{line.comment[1:]}."
                yield f"{line.key} = {_literal(line.value)}"

    return "".join(f"{line}\n" for line in told())


def _literal(value: Value) -> str:
    assert value is not None
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)  # TOML strings have the same escapes
    return f"[{', '.join(map(_literal, value))}]"

"""A program of this folder as a process of its own, which waits, goes and rests as it is told.

It reads its plan as a line of JSON, then a word a line, and answers each with a report in JSON; the end of its input
ends it. Here: what controls it. Not here: the programs (attacker.py, flooder.py).
"""

import json
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")

_PATIENCE: Final = 30.0


class ControlledProgram(Generic[R]):
    """`with` starts it, and it waits; it is at work from `go()` to `rest()`."""

    def __init__(self, module: str, plan: "DataclassInstance", report: type[R]) -> None:
        """`module` is run as a program; its reports are `report`s."""
        self._module = module
        self._plan = plan
        self._report = report

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._order(json.dumps(asdict(self._plan)))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(_PATIENCE)
        self._process.stdout.close()

    def go(self) -> R:
        return self._order("go")

    def rest(self) -> R:
        return self._order("rest")

    def _order(self, word: str) -> R:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        line = self._process.stdout.readline()
        assert line, f"{self._module} has ended"
        return self._report(**json.loads(line))

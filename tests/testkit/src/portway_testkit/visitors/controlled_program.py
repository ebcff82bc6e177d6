"""A program of this folder as a process of its own, which waits, goes and rests as it is told.

It reads its plan as a line of JSON, then a word a line, and answers each with a report in JSON; the end of its input
ends it. Here: what controls it, and the loop of programs that work at a rate. Not here: the programs (attacker.py,
flooder.py, dns_flooder.py).
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R")

_PATIENCE: Final = 30.0
_TICK: Final = 0.001


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


def run_at_rate(work: Callable[[int], int], report: Callable[[], None], *, rate: float, most: float) -> None:
    """A program's loop, until its input ends: `report()` answers each word; between `go` and `rest` `work(due)` does
    what is due by the `rate` a second, as far as it can, and returns how much that was.

    most: due at once; what would come on top of it is not made up for."""
    going, due, last = False, 0.0, 0.0
    report()
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], _TICK if going else None)
        if readable:
            word = sys.stdin.readline().strip()
            if not word:
                return
            going, due, last = word == "go", 0.0, time.monotonic()
            report()
        if going:
            now = time.monotonic()
            due = min(due + (now - last) * rate, most)
            last = now
            due -= work(int(due))

"""What was done on which machine, and how long it took: printed as it happens, counted for the summary."""

import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from portway_lab.field_test.machines import RunningMachine

_INDENT = " " * 9


class Transcript:
    """Prints a line for each step; the seconds before it are those since the first one."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.commands: Counter[str] = Counter()  # by machine: those that an operator types

    @property
    def seconds(self) -> float:
        """Since the first step."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        print(f"{self.seconds:7.1f}  {text}", flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """A step that is no command of an operator."""
        began = time.monotonic()
        yield
        self.say(f"{text}  ({time.monotonic() - began:.1f} s)")

    def command(
        self, machine: RunningMachine, *words: str, secret: Mapping[str, str] | None = None, shown: bool = True
    ) -> str:
        """Run a command of the handbook on a machine, and return what it printed. `secret`: variables, which are not
        printed. Raises CommandFailed."""
        self.commands[machine.place] += 1
        names = "".join(f"{name}=… " for name in secret or {})
        self.say(f"{machine.place}# {names}{shlex.join(words)}")
        began = time.monotonic()
        done = machine.run(*words, environment=secret)
        if shown:
            for line in done.stdout.splitlines():
                print(f"{_INDENT}{line}".rstrip())
        self.say(f"  took {time.monotonic() - began:.1f} s")
        return done.stdout

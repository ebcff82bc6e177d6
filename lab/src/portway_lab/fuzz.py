"""Test the parsers of bytes from outside with random input, in turns, until the time is up.

Each input is a function of the seed, the target and a number, so that a run can be repeated. An input that breaks the
invariant of a target is written to a file, which --input tries again. The targets are those of the test kit; tests/fuzz
runs them for a short time.
"""

import argparse
import hashlib
import random
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from portway_testkit.fuzzing.edits import random_input
from portway_testkit.fuzzing.target import Target
from portway_testkit.fuzzing.targets import TARGETS

_TURN = 0.5  # seconds of a target's turn, short so that all targets run under the same load
_REPORT = 2.0  # seconds between lines of progress
_SHOWN = 64  # bytes of a failing input that are printed; the file has all of it


@dataclass
class Progress:
    """What one target has tried so far."""

    target: Target
    seeds: tuple[bytes, ...]
    tried: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.tried / self.seconds if self.seconds else 0
        return f"{self.target.name} {self.tried:,} ({rate:,.0f}/s)"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    chosen = [TARGETS[name] for name in options.target or TARGETS]
    if options.input is not None:
        return _try_again(chosen, options.input.read_bytes())
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}, {options.seconds:g} s", flush=True)
    for target in chosen:
        print(f"  {target.name}: {target.invariant}", flush=True)
    all_progress = [Progress(target, target.seeds()) for target in chosen]
    failing = _run(all_progress, seed, options.seconds)
    _report(all_progress)
    if failing is None:
        print("no invariant was broken")
        return 0
    return _tell(failing, options.out)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of all targets together (60)")
    parser.add_argument("--seed", type=int, help="of the random inputs; by default a random one, which is printed")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), help="run this target only; may be repeated"
    )
    parser.add_argument("--input", type=Path, help="try this input only")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for failing inputs (the current folder)")
    return parser.parse_args(arguments)


@dataclass(frozen=True)
class Failure:
    """An input that broke an invariant."""

    target: Target
    data: bytes
    where: str


def _run(all_progress: Sequence[Progress], seed: int, seconds: float) -> Failure | None:
    """The seed inputs of each target, then inputs made from them, in turns. Returns the first failure."""
    began = reported = time.monotonic()
    for progress in all_progress:
        for number, data in enumerate(progress.seeds):
            if _breaks(progress.target, data):
                return Failure(progress.target, data, f"seed input {number}")
    while (now := time.monotonic()) - began < seconds:
        for progress in all_progress:
            failing = _turn(progress, seed, min(_TURN, seconds / len(all_progress)))
            if failing is not None:
                return failing
        if now - reported >= _REPORT:
            reported = now
            _report(all_progress)
    return None


def _turn(progress: Progress, seed: int, seconds: float) -> Failure | None:
    began = now = time.monotonic()
    target = progress.target
    while now - began < seconds:
        data = random_input(progress.seeds, random.Random(f"{seed} {target.name} {progress.tried}"))
        progress.tried += 1
        if _breaks(target, data):
            return Failure(target, data, f"input {progress.tried - 1} of seed {seed}")
        now = time.monotonic()
    progress.seconds += now - began
    return None


def _breaks(target: Target, data: bytes) -> bool:
    try:
        target.check(data)
    except Exception:
        return True
    return False


def _report(all_progress: Sequence[Progress]) -> None:
    print(" · ".join(map(str, all_progress)), flush=True)


def _tell(failing: Failure, folder: Path) -> int:
    target, data = failing.target, failing.data
    path = folder / f"fuzz-{target.name}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    print(f"{target.name} is broken by {failing.where}: {len(data)} bytes, {data[:_SHOWN].hex(' ')}")
    print(f"again: scripts/fuzz --target {target.name} --input {path}")
    return _try_again([target], data)


def _try_again(targets: Sequence[Target], data: bytes) -> int:
    """Prints how each target takes the input. Returns 1 if it breaks one of them, else 0."""
    broken = 0
    for target in targets:
        try:
            target.check(data)
        except Exception:
            broken = 1
            print(f"{target.name}: {target.invariant}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"{target.name} takes it", flush=True)
    return broken


if __name__ == "__main__":
    sys.exit(main())

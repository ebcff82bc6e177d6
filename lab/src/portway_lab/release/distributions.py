"""Sdists and wheels of every published distribution, and whether they are as they have to be.

Here: building them, and three checks: two builds give the same bytes, an archive holds the files of its folder and
nothing else, and an index would take it. Not here: installing them (environments.py).
"""

import filecmp
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from portway_lab.release import tools
from portway_lab.release.errors import ReleaseFailed
from portway_lab.release.source import Distribution, Source

# What the build backend adds to the files of the folder.
_SDIST_ADDED: Final = {"PKG-INFO"}
_WHEEL_INFO: Final = {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE", "licenses/NOTICE"}


def build(source: Source, out: Path) -> list[Path]:
    """Build the sdist and the wheel of each distribution from its folder."""
    out.mkdir(parents=True, exist_ok=True)
    for one in source.distributions:
        _hatch(source, one.folder, out, "sdist", "wheel")
    return sorted(out.iterdir())


def build_from_sdists(source: Source, sdists: Iterable[Path], folder: Path, out: Path) -> list[Path]:
    """Build the wheel of each distribution from its sdist, as an installer does that has nothing else."""
    for needed in (folder, out):
        needed.mkdir(parents=True, exist_ok=True)
    for sdist in sdists:
        tools.run(["tar", "--extract", "--file", sdist, "--directory", folder])
        _hatch(source, folder / sdist.name.removesuffix(".tar.gz"), out, "wheel")
    return sorted(out.iterdir())


def demand_same(first: Sequence[Path], second: Sequence[Path]) -> None:
    """Raises ReleaseFailed unless `second` are files of the names and bytes of files of `first`."""
    names = {path.name: path for path in first}
    differing = [
        path.name for path in second if path.name not in names or not filecmp.cmp(names[path.name], path, shallow=False)
    ]
    if differing or not second:
        raise ReleaseFailed(f"two builds of the same commit differ: {', '.join(differing) or 'the second is empty'}")


def demand_whole(source: Source, archives: Iterable[Path]) -> None:
    """Raises ReleaseFailed unless each archive holds what it has to, and nothing else."""
    by_file = {f"{one.package}-{source.version}": one for one in source.distributions}
    for path in archives:
        stem = path.name.removesuffix(".tar.gz").removesuffix("-py3-none-any.whl")
        if stem not in by_file:
            raise ReleaseFailed(f"{path.name} is of no published distribution, or not of version {source.version}")
        held, wanted = (_sdist if path.suffix == ".gz" else _wheel)(path, stem, by_file[stem])
        missing, more = sorted(wanted - held), sorted(held - wanted)
        if missing or more:
            raise ReleaseFailed(f"{path.name} lacks {missing} and has {more} that nobody expects")


def demand_acceptable(archives: Sequence[Path]) -> None:
    """Raises ReleaseFailed unless an index would take the archives and show their descriptions."""
    tools.run([sys.executable, "-m", "twine", "--no-color", "check", "--strict", *archives])


def _sdist(path: Path, stem: str, one: Distribution) -> tuple[set[str], set[str]]:
    with tarfile.open(path) as archive:
        held = {member.name.removeprefix(f"{stem}/") for member in archive.getmembers() if member.isfile()}
    return held, _files(one.folder) | _SDIST_ADDED


def _wheel(path: Path, stem: str, one: Distribution) -> tuple[set[str], set[str]]:
    with zipfile.ZipFile(path) as archive:
        held = set(archive.namelist())
    added = _WHEEL_INFO | ({"entry_points.txt"} if one.programs else set())
    return held, _files(one.folder / "src") | {f"{stem}.dist-info/{name}" for name in added}


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _hatch(source: Source, folder: Path, out: Path, *targets: str) -> None:
    wanted = [word for target in targets for word in ("--target", target)]
    command = [sys.executable, "-m", "hatchling", "build", "--directory", out, *wanted]
    tools.run(command, folder, SOURCE_DATE_EPOCH=str(source.epoch))

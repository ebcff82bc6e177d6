"""What a release is built from: a copy of the checkout in which each distribution stands by itself.

Here: the copy, and what is written into it: the version, the licence, and which versions of each other distributions
need. Not here: building anything.
"""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_runtime.version import VERSION

from portway_lab.release.errors import ReleaseFailed

_PRIVATE: Final = "Private :: Do Not Upload"
_VERSION: Final = "runtime/src/portway_runtime/version.py"
_LICENCES: Final = ("LICENSE", "NOTICE")
_OURS = re.compile(r"(?P<name>portway(-[a-z]+)?)(?P<extras>\[[a-z,]+\])?$")


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution that is published."""

    name: str
    folder: Path
    programs: tuple[str, ...]  # console commands that it installs
    needs: tuple[str, ...]  # names of the distributions of this repository that it requires, without extras

    @property
    def package(self) -> str:
        """The name by which it is imported, and its files begin with."""
        return self.name.replace("-", "_")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder in which a release is built."""

    root: Path
    version: str
    epoch: int  # of the commit, in seconds: the time that everything in the release has
    distributions: tuple[Distribution, ...]


def changes(checkout: Path) -> list[str]:
    """What the checkout has that its commit has not, a line for each file."""
    return _git(checkout, "status", "--porcelain").splitlines()


def copy(checkout: Path, folder: Path, version: str = VERSION) -> Source:
    """Copy the files of a checkout that Git keeps, or would keep, into a new folder, and make them ready to build, as
    another version if one is given."""
    listed = _git(checkout, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, listed):
        # A file that was deleted is still in Git's index; .gitignore would be packed into every sdist.
        if (checkout / name).is_file() and name != ".gitignore":
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout / name, target)
            target.chmod(0o755 if target.stat().st_mode & 0o100 else 0o644)
    written = folder / _VERSION
    written.write_text(written.read_text().replace(f'"{VERSION}"', f'"{version}"'))
    epoch = int(_git(checkout, "log", "-1", "--format=%ct"))
    return Source(folder, version, epoch, tuple(_stand_alone(folder, one, version) for one in published(folder)))


def published(root: Path) -> list[Distribution]:
    """The distributions of the workspace that are not private, each after those that it needs."""
    members = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
    found = {one.name: one for member in members if (one := _read(root / member)) is not None}
    ordered: list[Distribution] = []
    while len(ordered) < len(found):
        there = {one.name for one in ordered}
        ready = [one for name, one in sorted(found.items()) if name not in there and there.issuperset(one.needs)]
        if not ready:
            raise ReleaseFailed(f"a published distribution needs one that is not: {sorted(found.keys() - there)}")
        ordered += ready
    return ordered


def all_needed(distributions: Sequence[Distribution], *names: str) -> list[Distribution]:
    """Distributions and all that they need, however indirectly, in the order of `distributions`."""
    wanted = set(names)
    for one in reversed(distributions):
        if one.name in wanted:
            wanted.update(one.needs)
    return [one for one in distributions if one.name in wanted]


def _read(folder: Path) -> Distribution | None:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    if _PRIVATE in project["classifiers"]:
        return None
    needs = {found["name"] for words in _requirements(project) if (found := _OURS.match(words))}
    return Distribution(project["name"], folder, tuple(project.get("scripts", ())), tuple(sorted(needs)))


def _requirements(project: dict[str, list[str]]) -> set[str]:
    optional: dict[str, list[str]] = project.get("optional-dependencies", {})  # type: ignore[assignment]
    return {*project["dependencies"], *(words for several in optional.values() for words in several)}


def _stand_alone(root: Path, one: Distribution, version: str) -> Distribution:
    """All distributions are released together and need each other in the same version. In the workspace that goes
    without saying; whoever upgrades one of them from an index must get the others."""
    file = one.folder / "pyproject.toml"
    text = file.read_text()
    for words in _requirements(tomllib.loads(text)["project"]):
        if _OURS.match(words):
            text = text.replace(f'"{words}"', f'"{words}=={version}"')
    text = text.replace('dynamic = ["version"]', f'version = "{version}"')
    file.write_text(re.sub(r"\n\[tool\.(uv|uv\.sources|hatch\.version)\]\n(?!\[)(.+\n)*", "", text))
    for name in _LICENCES:
        shutil.copy2(root / name, one.folder / name)
    return one


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", checkout, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseFailed(f"a release is built from a Git checkout: {done.stderr.strip()}")
    return done.stdout

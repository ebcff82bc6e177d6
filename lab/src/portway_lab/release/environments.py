"""Each wheel installed alone, with what it declares to need, in an empty environment."""

import sys
from pathlib import Path

from portway_lab.checkout import ROOT
from portway_lab.release import tools
from portway_lab.release.errors import ReleaseFailed
from portway_lab.release.source import Distribution, Source


class Environments:
    """Environments below a folder, one for each distribution, made when it is first asked for.

    Wheels of this repository come from the folder `wheels` and from nowhere else, third parties from the package index
    in the versions of uv.lock.
    """

    def __init__(self, source: Source, wheels: Path, folder: Path) -> None:
        self._source = source
        self._wheels = wheels
        self._folder = folder
        self._constraints = folder / "constraints.txt"
        self._ready: dict[str, Path] = {}

    def installed(self, name: str) -> Path:
        """The environment of a distribution."""
        if name not in self._ready:
            self._ready[name] = self._install(name)
        return self._ready[name]

    def add(self, name: str, *packages: str) -> None:
        """Install third parties beside a distribution, in the versions of uv.lock."""
        if packages:
            environment = self.installed(name)
            command = [tools.uv(), "pip", "install", "--quiet", "--python", environment]
            tools.run([*command, "--constraint", self._constraints, *packages])

    def _install(self, name: str) -> Path:
        environment = self._folder / name
        if not self._constraints.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            wanted = ["--frozen", "--no-hashes", "--no-emit-workspace", "--quiet", "--output-file", self._constraints]
            tools.run([tools.uv(), "export", *wanted], ROOT)
        tools.run([tools.uv(), "venv", "--quiet", "--python", sys.executable, environment])
        ours = [f"--find-links={self._wheels}", "--constraint", self._constraints]
        command = [tools.uv(), "pip", "install", "--quiet", "--python", environment, *ours]
        # uv would take a wheel of this name and version from its cache.
        command += [word for one in self._source.distributions for word in ("--refresh-package", one.name)]
        tools.run([*command, f"{name}=={self._source.version}"], self._folder)
        return environment


def demand_alone(environments: Environments, one: Distribution, version: str) -> None:
    """Raises ReleaseFailed unless a distribution imports and its programs run, alone in its environment."""
    environment = environments.installed(one.name)
    tools.run([environment / "bin" / "python", "-c", f"import {one.package}"], environment)
    for name in one.programs:
        program = environment / "bin" / name
        if "usage" not in tools.run([program, "--help"], environment).lower():
            raise ReleaseFailed(f"{name} --help of {one.name} says nothing of its usage")
        if version not in tools.run([program, "--version"], environment):
            raise ReleaseFailed(f"{name} --version of {one.name} is not {version}")

"""Portway installed below a folder as it will be at /opt/portway: a virtual environment of the system's Python.

Every package of the lock is in it, so that whoever gets the tree needs no package index. It has compiled modules, since
the services that run from it cannot write there. Not here: what brings it to a machine (deb.py, images.py).
"""

import base64
import csv
import hashlib
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from portway_lab.release import tools
from portway_lab.release.source import Source, all_needed

PREFIX: Final = Path("/opt/portway")
SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
# Written by installers for themselves.
_NOT_WANTED: Final = (".gitignore", ".lock", "CACHEDIR.TAG")
_NOT_WANTED_INFO: Final = ("direct_url.json", "uv_cache.json", "uv_build.json", "REQUESTED")


@dataclass(frozen=True, slots=True)
class Tree:
    root: Path  # the folder that stands for /
    python: tuple[int, int]  # of the system; compiled modules are of this version

    @property
    def prefix(self) -> Path:
        return self.root / PREFIX.relative_to("/")

    @property
    def programs(self) -> list[Path]:
        """Portway's own commands."""
        return sorted(self.prefix.glob("bin/portway*"))


def build(source: Source, wheels: Path, root: Path, packages: Sequence[str]) -> Tree:
    """Install distributions, and all that they need, with the versions and hashes of uv.lock.

    `wheels` is the folder with the wheels of this repository.
    """
    version = tools.run([SYSTEM_PYTHON, "-c", "import sys; print(*sys.version_info[:2])"]).split()
    tree = Tree(root, (int(version[0]), int(version[1])))
    tree.prefix.parent.mkdir(parents=True, exist_ok=True)
    tools.run([tools.uv(), "venv", "--quiet", "--no-project", "--python", SYSTEM_PYTHON, tree.prefix])
    _install(source, wheels, tree, packages)
    _make_as_if_at_prefix(tree)
    _compile(tree)
    return tree


def _install(source: Source, wheels: Path, tree: Tree, packages: Sequence[str]) -> None:
    requirements = tree.root / "requirements.txt"
    selected = [word for name in packages for word in ("--package", name)]
    wanted = ["--frozen", "--no-dev", "--no-emit-workspace", "--quiet", "--output-file", requirements]
    tools.run([tools.uv(), "export", *selected, *wanted], source.root)
    install = [tools.uv(), "pip", "install", "--quiet", "--python", tree.prefix, "--link-mode", "copy", "--no-deps"]
    tools.run([*install, "--require-hashes", "--only-binary", ":all:", "--requirement", requirements])
    ours = all_needed(source.distributions, *packages)
    found = [next(wheels.glob(f"{one.package}-{source.version}-*.whl")) for one in ours]
    tools.run([*install, "--no-index", *found, *(word for one in ours for word in ("--refresh-package", one.name))])
    requirements.unlink()


def _make_as_if_at_prefix(tree: Tree) -> None:
    """Nothing in the tree names the folder where it was built, the interpreter that built it, or the time."""
    for name in _NOT_WANTED:
        (tree.prefix / name).unlink(missing_ok=True)
    (tree.prefix / "lib64").unlink(missing_ok=True)
    for path in (tree.prefix / "bin").iterdir():
        if path not in tree.programs:  # what third parties install for people at a shell
            path.unlink()
    (tree.prefix / "bin" / "python3").symlink_to(SYSTEM_PYTHON)
    (tree.prefix / "bin" / "python").symlink_to("python3")
    major, minor = tree.python
    (tree.prefix / "pyvenv.cfg").write_text(
        f"home = {SYSTEM_PYTHON.parent}\ninclude-system-site-packages = false\nversion = {major}.{minor}\n"
    )
    built, installed = f"#!{tree.prefix}/bin/python".encode(), f"#!{PREFIX}/bin/python".encode()
    for script in tree.programs:
        script.write_bytes(script.read_bytes().replace(built, installed, 1))
    for cache in tree.prefix.rglob("__pycache__"):
        shutil.rmtree(cache)
    for record in tree.prefix.rglob("*.dist-info/RECORD"):
        _write_record_again(record)


def _write_record_again(record: Path) -> None:
    """A package's list of its files, in order and with the hashes that they have now."""
    site = record.parent.parent
    for name in _NOT_WANTED_INFO:
        (record.parent / name).unlink(missing_ok=True)
    names = sorted(row[0] for row in csv.reader(io.StringIO(record.read_text())))
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    for name in names:
        if name == str(record.relative_to(site)):
            writer.writerow((name, "", ""))
        elif (file := site / name).is_file():
            data = file.read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            writer.writerow((name, f"sha256={digest}", len(data)))
    record.write_text(written.getvalue())


def _compile(tree: Tree) -> None:
    """Without times, by which Python would find the compiled modules out of date."""
    options = ["-q", "-s", tree.root, "-p", "/", "--invalidation-mode", "unchecked-hash"]
    tools.run([SYSTEM_PYTHON, "-m", "compileall", *options, tree.prefix / "lib"], PYTHONHASHSEED="0")

"""The Debian package portway-server: the tree of all programs, units, man pages, and scripts that make the users.

The texts of the package are in deploy/debian. It fits one release of Debian: that whose Python it was built with.
"""

import gzip
import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Final

from portway_lab.release import man_pages, tools
from portway_lab.release.source import Source
from portway_lab.release.tree import PREFIX, Tree

NAME: Final = "portway-server"
# The client too: whoever runs a machine looks whether tunnels work from there.
PACKAGES: Final = ("portway-server", "portway")
_SCRIPTS: Final = ("postinst", "prerm", "postrm")
_CHANGELOG: Final = """\
portway-server ({version}) unstable; urgency=medium

  * What has changed, and what is compatible with what, is in CHANGELOG.md.gz.

 -- Portway <root@localhost>  {date}
"""


def build(source: Source, tree: Tree, out: Path, version: str | None = None) -> Path:
    """Complete the tree to what the package installs, and pack it.

    `version` of the package: that of the source by default.
    """
    version = version or source.version
    _complete(source, tree, version)
    architecture = tools.run([tools.program("dpkg", "dpkg"), "--print-architecture"]).strip()
    _write_control(source, tree, version, architecture)
    out.mkdir(parents=True, exist_ok=True)
    package = out / f"{NAME}_{version}_{architecture}.deb"
    # zstd takes a tenth of the time of xz, on both sides; it is what makes installing fast on a small machine.
    command = [tools.program("dpkg-deb", "dpkg"), "--root-owner-group", "-Zzstd", "--build", tree.root, package]
    tools.run(command, SOURCE_DATE_EPOCH=str(source.epoch))
    return package


def _complete(source: Source, tree: Tree, version: str) -> None:
    deploy = source.root / "deploy"
    documents = tree.root / "usr" / "share" / "doc" / NAME
    (documents / "examples").mkdir(parents=True, exist_ok=True)
    for example in sorted((deploy / "systemd").glob("*.toml")):
        shutil.copy(example, documents / "examples")
    shutil.copy(deploy / "debian" / "copyright", documents)
    shutil.copy(source.root / "NOTICE", documents)
    _compress((source.root / "CHANGELOG.md").read_text(), documents / "CHANGELOG.md.gz")
    _compress(_CHANGELOG.format(version=version, date=formatdate(source.epoch)), documents / "changelog.gz")
    units = tree.root / "usr" / "lib" / "systemd" / "system"
    units.mkdir(parents=True, exist_ok=True)
    for unit in _units(source):
        shutil.copy(unit, units)
    commands = tree.root / "usr" / "bin"
    commands.mkdir(parents=True, exist_ok=True)
    for program in tree.programs:
        link = commands / program.name
        if not link.is_symlink():
            link.symlink_to(PREFIX / "bin" / program.name)
    pages = tree.root / "usr" / "share" / "man" / "man1"
    if not pages.exists():
        man_pages.write(tree, source.version, source.epoch, pages)
    overrides = tree.root / "usr" / "share" / "lintian" / "overrides"
    overrides.mkdir(parents=True, exist_ok=True)
    shutil.copy(deploy / "debian" / "lintian-overrides", overrides / NAME)
    (tree.root / "etc" / "portway").mkdir(parents=True, exist_ok=True)


def _units(source: Source) -> list[Path]:
    return sorted((source.root / "deploy" / "systemd").glob("*.service"))


def _write_control(source: Source, tree: Tree, version: str, architecture: str) -> None:
    folder = tree.root / "DEBIAN"
    shutil.rmtree(folder, ignore_errors=True)
    for path in tree.root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or (os.access(path, os.X_OK) and path.parent.name == "bin") else 0o644)
    files = sorted(path for path in tree.root.rglob("*") if path.is_file() and not path.is_symlink())
    major, minor = tree.python
    values = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        # Kibibytes, a file rounded up to whole ones and one for everything else: Debian's own rule.
        "INSTALLED_SIZE": str(sum(-(-path.stat().st_size // 1024) for path in files) + _others(tree, files)),
        "PYTHON": f"{major}.{minor}",
        "NEXT_PYTHON": f"{major}.{minor + 1}",
        "UNITS": " ".join(unit.name for unit in _units(source)),
    }
    folder.mkdir()
    sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree.root)}\n" for path in files)
    (folder / "md5sums").write_text("".join(sums))
    for name in ("control", *_SCRIPTS):
        text = (source.root / "deploy" / "debian" / name).read_text()
        (folder / name).write_text(_filled(text, values))
        (folder / name).chmod(0o755 if name in _SCRIPTS else 0o644)


def _compress(text: str, path: Path) -> None:
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def _others(tree: Tree, files: list[Path]) -> int:
    return sum(1 for _ in tree.root.rglob("*")) - len(files)


def _filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda found: values[found[1]], text)

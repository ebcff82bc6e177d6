"""Build a release from a clean checkout: everything that is published, checked, into one folder.

Sdists and wheels of every distribution; the Debian package portway-server; container images of the relay node, the
registry and the client; a bill of materials; checksums. Each distribution is built twice, and from its sdist, and the
package twice: the bytes must be the same. Archives must hold what they should and be accepted by an index, and each
wheel must work alone in an environment of its own. Nothing is uploaded. docs/release.md says how to release.

The package and the images are for the release of Debian and the kind of processor that this machine has. The images
need root.
"""

# Here: the steps, their order and the output. Not here: each step.

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from portway_lab.checkout import ROOT
from portway_lab.release import bill_of_materials, deb, distributions, images, tools, tree
from portway_lab.release.environments import Environments, demand_alone
from portway_lab.release.errors import ReleaseFailed
from portway_lab.release.source import Source, changes, copy

SUMS: Final = "SHA256SUMS"
_MIB: Final = 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="portway-release-") as folder:
            build(Path(folder), options.output, options.without_images, options.allow_changes)
    except ReleaseFailed as failure:
        print(f"scripts/release: {failure}", file=sys.stderr)
        return 1
    for path in sorted(options.output.iterdir()):
        print(f"{path.stat().st_size / _MIB:8.1f} MiB  {path}")
    return 0


def build(work: Path, out: Path, without_images: bool, allow_changes: bool) -> None:
    """Build and check everything. Raises ReleaseFailed; what was built by then is in `out`."""
    changed = changes(ROOT)
    if changed and not allow_changes:
        raise ReleaseFailed(
            "a release is built from what is committed, and this checkout has changes (--allow-changes builds it with "
            "them, to try): " + ", ".join(changed[:5])
        )
    if out.exists() and any(out.iterdir()):
        raise ReleaseFailed(f"{out} is not empty: remove it, or name another folder with --output")
    out.mkdir(parents=True, exist_ok=True)
    source, again = copy(ROOT, work / "source"), copy(ROOT, work / "again" / "source")
    print(f"Portway {source.version}", flush=True)
    with _step("sdists and wheels, built twice and from sdists"):
        archives = _distributions(source, again, work, out)
    with _step("each wheel alone in an environment"):
        environments = Environments(source, out, work / "environments")
        for one in source.distributions:
            demand_alone(environments, one, source.version)
    with _step("the Debian package, built twice"):
        _package(source, again, work, out)
    if not without_images:
        with _step("container images"):
            _images(source, work, out)
    with _step("bill of materials and checksums"):
        bill_of_materials.write(source, (path for path in archives if path.suffix == ".whl"), out)
        write_sums(out)


def _distributions(source: Source, again: Source, work: Path, out: Path) -> list[Path]:
    archives = distributions.build(source, out)
    distributions.demand_same(archives, distributions.build(again, work / "again" / "archives"))
    sdists = [path for path in archives if path.suffix == ".gz"]
    distributions.demand_same(
        archives, distributions.build_from_sdists(source, sdists, work / "unpacked", work / "from-sdists")
    )
    distributions.demand_whole(source, archives)
    distributions.demand_acceptable(archives)
    return archives


def _package(source: Source, again: Source, work: Path, out: Path) -> None:
    def one(source: Source, folder: Path, to: Path) -> Path:
        return deb.build(source, tree.build(source, out, folder / "package" / "root", deb.PACKAGES), to)

    package = one(source, work, out)
    distributions.demand_same([package], [one(again, work / "again", work / "again" / "package")])
    if shutil.which("lintian"):
        tools.run(["lintian", "--allow-root", "--fail-on", "error", package])
    else:
        print("  not looked at by lintian, which is not installed", flush=True)


def _images(source: Source, work: Path, out: Path) -> None:
    if os.geteuid() != 0:
        raise ReleaseFailed("container images need root: run it as root, or with --without-images")
    built = images.build(source, out, work / "images")
    architecture = tools.run([tools.program("dpkg", "dpkg"), "--print-architecture"]).strip()
    try:
        for name in images.IMAGES:
            built.archive(name, out, architecture)
    finally:
        built.remove()


def write_sums(out: Path) -> None:
    """Write the checksums of all files of a folder into it, as sha256sum reads them."""
    lines = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(out.iterdir()))
    text = "".join(lines)
    (out / SUMS).write_text(text)


@contextmanager
def _step(name: str, now: Callable[[], float] = time.monotonic) -> Iterator[None]:
    began = now()
    print(f"── {name}", flush=True)
    yield
    print(f"  {now() - began:.0f} s", flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = "the folder to fill, empty or not there (dist)"
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR", help=out)
    parser.add_argument("--without-images", action="store_true", help="build no container images")
    allow = "build what this checkout has, committed or not: to try, not to publish"
    parser.add_argument("--allow-changes", action="store_true", help=allow)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())

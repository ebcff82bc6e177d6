"""The Debian package of this checkout, built once: scripts/release builds the same, and looks at it from all sides."""

from pathlib import Path

from portway_runtime.version import VERSION

from portway_lab.checkout import ROOT
from portway_lab.release import deb, distributions, tree
from portway_lab.release.source import copy


def build_package(folder: Path, version: str = VERSION) -> Path:
    """Build it below a folder, committed or not, as another version if one is given. Raises ReleaseFailed."""
    source = copy(ROOT, folder / f"source-{version}", version)
    wheels = folder / f"wheels-{version}"
    distributions.build(source, wheels)
    return deb.build(source, tree.build(source, wheels, folder / f"package-{version}" / "root", deb.PACKAGES), folder)

"""The Debian package of this checkout, built once: scripts/release builds the same, and looks at it from all sides."""

from pathlib import Path

from portway_lab.checkout import ROOT
from portway_lab.release import deb, distributions, tree
from portway_lab.release.source import copy


def build_package(folder: Path) -> Path:
    """Build it below a folder, committed or not. Raises ReleaseFailed."""
    source = copy(ROOT, folder / "source")
    wheels = folder / "wheels"
    distributions.build(source, wheels)
    return deb.build(source, tree.build(source, wheels, folder / "package" / "root", deb.PACKAGES), folder)

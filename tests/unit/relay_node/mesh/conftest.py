"""What the tests of this folder stand on."""

from portway_testkit.links.mesh_lanes import authority, make  # noqa: F401 - for the tests of this folder

"""What the tests of this folder stand on."""

from portway_testkit.mesh_lanes import authority, make  # noqa: F401 - for the tests of this folder

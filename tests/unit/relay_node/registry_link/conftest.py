"""What the tests of this folder stand on."""

from portway_testkit.fakes.fake_mesh import certified, node, serve, strangers  # noqa: F401 - for the tests of this folder

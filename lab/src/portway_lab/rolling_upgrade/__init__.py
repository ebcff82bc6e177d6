"""The upgrade of a running mesh from an older release to this one, under load."""

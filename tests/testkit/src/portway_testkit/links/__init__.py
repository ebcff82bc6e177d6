"""Connections that a test controls: broken on purpose, or spoken frame by frame."""

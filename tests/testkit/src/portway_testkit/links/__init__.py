"""Connections in the hand of a test: broken on purpose, or spoken frame by frame."""

"""Framed connections, the pools that hold them, and the spare lanes of a pool that dials."""

"""Keeps tunnels open: one background thread with one event loop for all tunnels of the process."""

"""Framed connections, and the pools that keep, dial and lend them."""

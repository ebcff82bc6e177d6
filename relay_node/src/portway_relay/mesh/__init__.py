"""Lanes between nodes: those that this node dials, those that it accepts, and what is exchanged on them."""

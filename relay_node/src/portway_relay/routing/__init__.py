"""Tunnels: whose a label is, its raw port, its visits."""

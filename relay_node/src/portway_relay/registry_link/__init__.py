"""A node's side of its stream with a registry."""

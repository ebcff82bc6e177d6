"""Connections for the registry that come to a node, which passes them on to a replica: from the peek to their end."""

"""A Portway relay node."""

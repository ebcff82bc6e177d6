"""Relay nodes: their certificates, sessions and reachability, and what operators order them to do."""

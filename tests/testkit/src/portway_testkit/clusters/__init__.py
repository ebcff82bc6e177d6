"""Registries, relay nodes and etcd members of which everything is real."""

"""The store for one machine: inside the registry's process, in one SQLite file."""

from portway_registry.store.embedded.store import EmbeddedStore

__all__ = ["EmbeddedStore"]

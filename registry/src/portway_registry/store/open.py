"""From settings to a store: what the rest of the registry imports to get one."""

from collections.abc import Callable

from portway_registry.store.contract import Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.spec import EmbeddedSpec, EtcdSpec, StoreSpec, parse_store

__all__ = ["EmbeddedSpec", "EtcdSpec", "StoreSpec", "open_store", "parse_store"]


def open_store(spec: StoreSpec, *, on_failure: Callable[[BaseException], None]) -> Store:
    """The store that is specified, to be closed by the caller. Needs a running loop.

    The embedded store is read here and now; etcd is first spoken to by the first call. `on_failure` is told
    when a task inside the store ended early: the store can do no more then, and the process should stop.
    Raises ConfigError when a file cannot be used.
    """
    if isinstance(spec, EmbeddedSpec):
        return EmbeddedStore(spec.path, on_failure=on_failure)
    return EtcdStore(spec)

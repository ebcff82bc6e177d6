"""Opening the store that the settings name. Apart from their values, since it imports gRPC."""

from collections.abc import Callable

from portway_registry.store.contract import Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.spec import EmbeddedSpec, StoreSpec


def open_store(spec: StoreSpec, *, on_failure: Callable[[BaseException], None]) -> Store:
    """The store, to be closed by the caller. Needs a running loop.

    The embedded store is loaded before this returns; etcd is contacted by the first call. `on_failure` is called when a
    task inside the store failed: the store is unusable then, and the process should stop. Raises ConfigError when a
    file cannot be used.
    """
    if isinstance(spec, EmbeddedSpec):
        return EmbeddedStore(spec.path, on_failure=on_failure)
    return EtcdStore(spec)

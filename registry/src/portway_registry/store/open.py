"""Opening the store that the settings name. Apart from their values, since it imports gRPC."""

import logging
from collections.abc import Callable

from portway_registry.store.contract import Store
from portway_registry.store.embedded import EmbeddedStore
from portway_registry.store.etcd import EtcdStore
from portway_registry.store.spec import EmbeddedSpec, StoreSpec

logger = logging.getLogger(__name__)


def open_store(spec: StoreSpec, *, on_failure: Callable[[BaseException], None]) -> Store:
    """The store, to be closed by the caller. Needs a running loop.

    The embedded store is loaded before this returns; etcd is contacted by the first call. `on_failure` is called when a
    task inside the store failed: the store is unusable then, and the process should stop. Raises ConfigError when a
    file cannot be used. Warns of an etcd on another machine that is spoken to without TLS.
    """
    if isinstance(spec, EmbeddedSpec):
        return EmbeddedStore(spec.path, on_failure=on_failure)
    if spec.exposed:
        logger.warning(
            "etcd is spoken to without TLS: whoever is on the way reads the cluster's keys and can change everything; "
            "use https:// endpoints",
            extra={"endpoints": ",".join(spec.exposed)},
        )
    return EtcdStore(spec)

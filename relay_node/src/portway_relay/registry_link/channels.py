"""Channels to registries: what their names lead to, by which name their certificates are verified, this node's own
certificate.

Not here: which registry (registries.py), what is said on a channel (stream.py).
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import grpc
from grpc import aio
from portway_runtime.descriptors import demand_descriptors
from portway_runtime.endpoints import Endpoint
from portway_runtime.grpc_channels import KEEPALIVE_WHEN_IDLE, NO_PROXY_OF_ITS_OWN, OWN_CONNECTIONS
from portway_runtime.grpc_targets import LOOKUP_TIMEOUT, Options, is_address, target_of
from portway_runtime.identities import REGISTRY_NAME
from portway_runtime.names import Names
from portway_runtime.threads import demand_threads

from portway_relay.certificates import LoadedCertificates

_OPTIONS: Final = (*KEEPALIVE_WHEN_IDLE, *OWN_CONNECTIONS, *NO_PROXY_OF_ITS_OWN)

Way = tuple[str, Options]  # what a channel is made with


class Unresolved(Exception):
    """A registry's name leads to no address now; says why."""


class RegistryChannels:
    """Makes channels. Needs a running loop."""

    def __init__(self, certificates: Callable[[], LoadedCertificates]) -> None:
        self._certificates = certificates
        self._names = Names()
        self._by_host: set[Endpoint] = set()  # registries whose certificate does not hold the common name
        self._lost: Counter[Endpoint] = Counter()  # how often each was not reached, or lost

    async def ways_to(self, registry: Endpoint, *, apart: bool = False) -> list[Way]:
        """What leads to a registry: to all addresses of its name, or to each by itself. Raises Unresolved."""
        # Registry certificates of an earlier release hold the names of their hosts only, so both names are tried.
        name = None if registry in self._by_host else REGISTRY_NAME
        try:
            if is_address(registry):
                return [(str(registry), () if name is None else (("grpc.ssl_target_name_override", name),))]
            async with asyncio.timeout(LOOKUP_TIMEOUT):
                addresses = await self._names.addresses(registry.host)
        except TimeoutError:
            raise Unresolved(f"its name cannot be resolved: no answer within {LOOKUP_TIMEOUT:g} s") from None
        except (OSError, UnicodeError) as error:
            raise Unresolved(f"its name cannot be resolved: {error}") from None
        if apart:
            return [target_of(registry, [one], name) for one in addresses]
        # gRPC takes the first that it reaches, and several replicas may be behind a name, one of which does not answer.
        first = self._lost[registry] % max(1, len(addresses))
        return [target_of(registry, [*addresses[first:], *addresses[:first]], name)]

    def open(self, way: Way) -> aio.Channel:
        """A channel with this node's certificate of now. Raises NoDescriptors and NoThread."""
        target, name = way
        demand_descriptors()
        demand_threads()
        loaded = self._certificates()
        credentials = grpc.ssl_channel_credentials(loaded.ca, loaded.node.key, loaded.node.chain)
        return aio.secure_channel(target, credentials, options=(*name, *_OPTIONS))

    def has_another_name(self, registry: Endpoint) -> bool:
        """Its certificate was for another name than the one that was tried. Returns whether to try the other one."""
        if registry in self._by_host:
            self._by_host.discard(registry)
            return False
        self._by_host.add(registry)
        return True

    def forget(self, registry: Endpoint) -> None:
        """It was not reached, or lost: look its name up again the next time, and begin with another address."""
        self._lost[registry] += 1
        self._names.forget(registry.host)

"""The store for production: etcd v3, spoken to over grpc.aio."""

from portway_registry.store.etcd.store import EtcdStore

__all__ = ["EtcdStore"]

"""A node's certificates as files that a test writes, and a carrier's part that fails when the test says so.

Here: the five files, with any names, CA or dates. Not here: certificates of a whole cluster (clusters/cluster.py).
"""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from portway_carrier.errors import TlsSettingsError
from portway_carrier.values import ClientTls, ServerTls
from portway_relay.certificates import Certificates
from portway_relay.config import NodeConfig
from portway_runtime.errors import CertificateError

NODE = "relay-1.node.portway.internal"
ZONE = "fra.example.com"
REGION = f"*.{ZONE}"


def write_later(path: Path, data: bytes) -> None:
    """Write a file as an operator does: not in the same moment of the file system's clock, which may go on 100 times in
    a second, as what it had before."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(data)
    after = path.stat()
    if after.st_mtime_ns <= before:
        os.utime(path, ns=(after.st_atime_ns, before + 1))


@dataclass
class Files:
    """A node's five files, and a clock that can be set."""

    config: NodeConfig
    authority: trustme.CA
    now: datetime
    fault: TlsSettingsError | None = None
    prepared: tuple[ServerTls | ClientTls, ...] = ()

    def write(self, cert: Path, key: Path, leaf: trustme.LeafCert) -> None:
        write_later(cert, b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        write_later(key, leaf.private_key_pem.bytes())

    def node(self, *names: str, ca: trustme.CA | None = None, **options: Any) -> None:
        leaf = (ca or self.authority).issue_cert(*names or [NODE], **options)
        self.write(self.config.cert, self.config.key, leaf)

    def region(self, *names: str, **options: Any) -> None:
        self.write(
            self.path("tls_cert"), self.path("tls_key"), self.authority.issue_cert(*names or [REGION], **options)
        )

    def path(self, which: str) -> Path:
        """The file of a setting; the first of those for regions."""
        path: Path | tuple[Path, ...] = getattr(self.config, which)
        return path[0] if isinstance(path, tuple) else path

    def add_region(self, name: str, *names: str) -> None:
        """One more certificate for visitors."""
        cert, key = (self.config.cert.with_name(f"{name}.{kind}") for kind in ("pem", "key"))
        self.write(cert, key, self.authority.issue_cert(*names))
        config = self.config
        self.config = replace(config, tls_cert=(*config.tls_cert, cert), tls_key=(*config.tls_key, key))

    def read(self) -> Certificates:
        return Certificates(self.config, self.prepare, now=lambda: self.now)

    def prepare(self, settings: Collection[ServerTls | ClientTls]) -> None:
        """The carrier's part, which fails with `fault`."""
        if self.fault is not None:
            raise self.fault
        self.prepared = tuple(settings)

    def complaint(self) -> str:
        with pytest.raises(CertificateError) as caught:
            self.read()
        return str(caught.value)

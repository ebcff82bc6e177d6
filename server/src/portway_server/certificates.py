"""Certificates from elsewhere: which of them is for the registry's name, and whether the region has one.

Here: reading what their files are for. Not here: loading them, which the programs do.
"""

from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from portway_runtime.identities import UNREADABLE, dns_names
from portway_runtime.pem_files import read_pem

from portway_server.errors import SetupRefused

Pair = tuple[Path, Path]  # a certificate and its key


def of_registry(pairs: Sequence[Pair], name: str) -> Pair:
    """The pair whose certificate is for the registry's name. Raises SetupRefused."""
    for pair in pairs:
        if is_for(_names(pair[0]), name):
            return pair
    raise SetupRefused(
        f"none of {_listed(pairs)} is a certificate for {name}, by which clients reach the registry: give that one "
        "with --tls-cert and --tls-key too"
    )


def demand_region(pairs: Sequence[Pair], zone: str) -> None:
    """Raise SetupRefused unless a certificate is for all names of the region."""
    if not any(is_for(_names(certificate), f"label.{zone}") for certificate, _ in pairs):
        raise SetupRefused(
            f"none of {_listed(pairs)} is a certificate for *.{zone}, which visitors of this region's tunnels are shown"
        )


def of_relay(pairs: Sequence[Pair], domain: str) -> list[Pair]:
    """Those that are for all names of a region: a node need not read the registry's key. Raises SetupRefused."""
    return [
        pair for pair in pairs if any(name.startswith("*.") and name.endswith(f".{domain}") for name in _names(pair[0]))
    ]


def is_for(names: Sequence[str], host: str) -> bool:
    """Whether a certificate with these names is valid for a host."""
    wildcard = f"*.{host.partition('.')[2]}"
    return host in names or wildcard in names


def _names(path: Path) -> list[str]:
    try:
        return dns_names(x509.load_pem_x509_certificate(read_pem(path)))
    except OSError as error:
        raise SetupRefused(f"--tls-cert {path} cannot be read: {error.strerror}") from error
    except UNREADABLE as error:
        raise SetupRefused(f"--tls-cert {path} is no certificate (PEM): {error}") from error


def _listed(pairs: Sequence[Pair]) -> str:
    return ", ".join(str(certificate) for certificate, _ in pairs)

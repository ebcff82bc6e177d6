"""Chromium as a visitor of a cluster: how it is started for that."""

import base64
import hashlib
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# With these it asks nobody for anything of its own, and runs as root and without a display.
ALONE: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def arguments(certificate: Path) -> list[str]:
    """Those with which it also takes a certificate (PEM) that no public CA has signed for a good one."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    pin = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return [f"--ignore-certificate-errors-spki-list={base64.b64encode(pin).decode()}", *ALONE]

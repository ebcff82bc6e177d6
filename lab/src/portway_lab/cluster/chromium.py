"""Chromium as a visitor of a cluster whose certificates no public CA has signed: how it is started for that."""

import base64
import hashlib
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def arguments(certificate: Path) -> list[str]:
    """Those with which it takes this certificate (PEM) for a good one, and asks nobody for anything of its own."""
    key = x509.load_pem_x509_certificate(certificate.read_bytes()).public_key()
    pin = hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    return [
        f"--ignore-certificate-errors-spki-list={base64.b64encode(pin).decode()}",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]

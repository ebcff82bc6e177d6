"""PEM files as people and other programs write them.

PEM is ASCII (RFC 7468), but editors put a byte order mark in front of it, and bundles have names in any script above
their certificates. gRPC or ssl refuses a file for these bytes, which mean nothing to either.
"""

import os


def read_pem(path: str | os.PathLike[str]) -> bytes:
    """The content of a PEM file, without what is not ASCII. Raises OSError."""
    with open(path, "rb") as file:  # not a Path: importing pathlib takes 4 ms, and clients have no other use for it
        return file.read().decode("ascii", "ignore").encode()

"""PEM files as editors and bundles have them."""

from codecs import BOM_UTF8
from pathlib import Path

import pytest
from portway_runtime.pem_files import read_pem

PEM = b"-----BEGIN CERTIFICATE-----\nZm9v\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (PEM, PEM),
        (BOM_UTF8 + PEM, PEM),
        (BOM_UTF8 + PEM + BOM_UTF8 + PEM, PEM + PEM),
        ("# Főtanúsítvány\n".encode() + PEM, b"# Ftanstvny\n" + PEM),
        ("# Zürich\n".encode("latin-1") + PEM, b"# Zrich\n" + PEM),
        (b"", b""),
    ],
)
def test_what_is_not_ascii_is_left_out(tmp_path: Path, content: bytes, read: bytes) -> None:
    """A byte order mark, also of each file of several that were put together, and names in any script or encoding."""
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    assert read_pem(path) == read_pem(str(path)) == read


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """The system's error, for the caller to name its setting."""
    with pytest.raises(FileNotFoundError):
        read_pem(tmp_path / "none.pem")
